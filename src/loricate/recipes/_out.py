"""Where adapters may be written: never over a source, nor over anything that is no adapter."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loricate.adapters.formats import diffusers, peft
from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    HostileFileError,
    PrerequisiteError,
    UnsupportedError,
)

__all__ = ["require_free", "require_new", "writing_to"]

_WEIGHTS = {peft.WEIGHTS, diffusers.WEIGHTS}
_FILES = {*_WEIGHTS, peft.CONFIG, "README.md"}
_MARKS = (".lora_", "_lora.", ".lora.")


def require_free(out: Path, sources: Sequence[Path]) -> None:
    """Refuse a destination where something could be lost.

    Args:
        out: File or folder. An adapter that is there already may be replaced.
        sources: Files and folders that are read.

    Raises:
        ConfigError: It is a source, lies in one or around one, or is something else than an
            adapter.
    """
    ours = out.resolve()
    for source in sources:
        theirs = source.resolve()
        if ours == theirs or ours in theirs.parents or theirs in ours.parents:
            expected = f"a path outside the source, {str(source)!r}"
            raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))
    if not (_is_adapter_folder(out) if out.is_dir() else not out.exists() or _is_adapter(out)):
        expected = "a new path, an empty folder, or an adapter to replace"
        raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))


def require_new(out: Path) -> None:
    """Refuse a destination that exists, unless it is an empty folder.

    Args:
        out: File or folder.

    Raises:
        ConfigError: Something is there.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        expected = "a new path or an empty folder"
        raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turn a refusal of the file system into one that names the destination.

    Args:
        out: File or folder.

    Raises:
        PrerequisiteError: There is no room or permission to write, or a folder is in the way.
    """
    try:
        yield
    except OSError as error:
        missing = f"a place to write {str(out)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="name another path with --out") from error


def _is_adapter_folder(folder: Path) -> bool:
    names = {entry.name for entry in folder.iterdir()}
    return not names or (names <= _FILES and bool(names & _WEIGHTS))


def _is_adapter(path: Path) -> bool:
    try:
        return any(mark in name for name in TensorFile(path) for mark in _MARKS)
    except (HostileFileError, UnsupportedError):
        return False
