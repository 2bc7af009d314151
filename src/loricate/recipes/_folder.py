"""One run a folder: claimed by its settings, and by what it starts from."""

import json
from collections.abc import Mapping
from pathlib import Path

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.files import write_atomically

__all__ = ["CONFIG", "claim", "require_free"]

CONFIG = "config.toml"
_INPUTS = "inputs.json"


def require_free(out: Path) -> None:
    """Refuse a folder with anything in it, and leave it as it is.

    Args:
        out: Folder to write into.

    Raises:
        ConfigError: There are files, or something that is no folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        expected = "a new or empty folder: files in it could be overwritten"
        raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))


def claim(out: Path, config: str, *, resume: bool, inputs: Mapping[str, str] | None = None) -> None:
    """Make a folder this run's, or find that it already is.

    Args:
        out: Run folder.
        config: Settings as TOML.
        resume: Whether the folder may hold the run's beginnings.
        inputs: Digests of model and data by name; those of the beginnings must be the same.

    Raises:
        ConfigError: The folder holds another run, one that was not to be resumed, other files, or
            the beginnings of a run on another model or other data.
    """
    path = out / CONFIG
    if not path.exists() and out.is_dir() and any(out.iterdir()):
        expected = "a new or empty folder, or that of a run: files in it could be overwritten"
        raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))
    if path.exists() and not resume:
        expected = "a folder without a run, or --resume to continue the one in it"
        raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))
    if path.exists() and path.read_text() != config:
        expected = f"the settings in {path}; change them in a new folder"
        raise ConfigError(ConfigProblem(key="resume", expected=expected, got="other settings"))
    _require_same(out / _INPUTS, inputs or {})
    write_atomically(path, config.encode())
    if inputs:
        write_atomically(out / _INPUTS, json.dumps(inputs, indent=1).encode())


def _require_same(path: Path, inputs: Mapping[str, str]) -> None:
    before = json.loads(path.read_text()) if path.exists() else {}
    changed = [name for name, found in inputs.items() if before.get(name, found) != found]
    if changed:
        expected = f"the {' and the '.join(changed)} that the run in {path.parent} began with"
        raise ConfigError(ConfigProblem(key="resume", expected=expected, got="changed ones"))
