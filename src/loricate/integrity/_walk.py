"""Files below paths, each once, and why others cannot be read."""

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

__all__ = ["Found", "files_of"]

_Identity: TypeAlias = tuple[int, int]


class Found(NamedTuple):
    """One file on the way.

    Args:
        path: The file or folder, as it was reached.
        trouble: Why it cannot be read, or ``None``.
    """

    path: Path
    trouble: str | None = None


def files_of(paths: Sequence[Path]) -> tuple[Found, ...]:
    """Regular files at and below paths, sorted by path.

    Links are followed, a folder is entered once. A file that a link names is shown under the name
    of the link alone, so that files of a hub cache have their names instead of digests.

    Args:
        paths: Files and folders.
    """
    entered: set[_Identity] = set()
    found = [each for path in paths for each in _below(path, entered)]
    linked = {_identity(each.path) for each in found if not each.trouble and each.path.is_symlink()}
    shown: dict[tuple[_Identity, Path] | Path, Found] = {}
    for each in found:
        if each.trouble:
            shown[each.path] = each
        elif each.path.is_symlink() or _identity(each.path) not in linked:
            shown.setdefault((_identity(each.path), each.path.parent), each)
    return tuple(sorted(shown.values()))


def _below(path: Path, entered: set[_Identity]) -> Iterator[Found]:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            if (identity := (status.st_dev, status.st_ino)) not in entered:
                entered.add(identity)
                for child in sorted(path.iterdir()):
                    yield from _below(child, entered)
        elif not stat.S_ISREG(status.st_mode):
            yield Found(path, "neither a file nor a folder")
        elif status.st_size == 0:
            yield Found(path, "an empty file")
        else:
            with path.open("rb"):
                yield Found(path)
    except OSError as error:
        yield Found(path, error.strerror or str(error))


def _identity(path: Path) -> _Identity:
    status = path.stat()
    return status.st_dev, status.st_ino
