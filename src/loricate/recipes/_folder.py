"""One run a folder: claimed by its settings."""

from pathlib import Path

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.records.io import write_atomically

__all__ = ["CONFIG", "claim"]

CONFIG = "config.toml"


def claim(out: Path, config: str, *, resume: bool) -> None:
    """Make a folder this run's, or find that it already is.

    Args:
        out: Run folder.
        config: Settings as TOML.
        resume: Whether the folder may hold the run's beginnings.

    Raises:
        ConfigError: The folder holds another run, one that was not to be resumed, or other files.
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
    write_atomically(path, config.encode())
