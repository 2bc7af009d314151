"""Files and folders that appear together or not at all, and never over what they are made of."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from loricate.basics.errors import ConfigError, ConfigProblem

__all__ = ["require_apart", "staged"]


def require_apart(out: Path, sources: Iterable[Path]) -> None:
    """Refuse a destination where something that is read would be lost.

    Args:
        out: File or folder.
        sources: Files and folders.

    Raises:
        ConfigError: The destination is a source, or lies in or around one.
    """
    ours = out.resolve()
    for source in sources:
        # Caches of models are folders of links to files elsewhere.
        for each in (source, *source.rglob("*.safetensors")):
            theirs = each.resolve()
            if ours == theirs or ours in theirs.parents or theirs in ours.parents:
                expected = f"a path outside the source, {str(source)!r}"
                raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A place to write a file or a folder, which appears at ``path`` when the block is over.

    What the block writes beside it appears beside ``path``. A folder that exists already keeps
    its other files; nothing changes when the block raises.

    Args:
        path: Destination.

    Yields:
        The destination's stand-in, in a temporary folder on the same disk.
    """
    path = path.absolute()  # so that "." has a name
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        yield Path(folder) / path.name
        entries = sorted(Path(folder).iterdir(), key=lambda entry: entry.name == path.name)
        for entry in entries:
            _flush(entry)
        for entry in entries:
            _publish(entry, path.parent / entry.name)


def _flush(path: Path) -> None:
    # Without it a power cut may leave a complete name on an incomplete file.
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _publish(entry: Path, target: Path) -> None:
    if entry.is_dir() and target.is_dir():
        for below in sorted(entry.iterdir()):
            _publish(below, target / below.name)
    else:
        entry.replace(target)
