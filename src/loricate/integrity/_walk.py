"""Files below paths, under each of their names, and why others cannot be read."""

import errno
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

__all__ = ["Found", "files_of"]

_Identity: TypeAlias = tuple[int, int]

_BLOBS = "blobs"
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Found(NamedTuple):
    """One file on the way.

    Args:
        path: The file or folder, as it was reached.
        trouble: Why it cannot be read, or ``None``.
        is_hidden: Whether there may be something in it all the same, for whoever can read it.
    """

    path: Path
    trouble: str | None = None
    is_hidden: bool = False


def files_of(paths: Sequence[Path]) -> tuple[Found, ...]:
    """Regular files at and below paths, sorted by path.

    Links are followed, a folder is entered once. A file of several names is shown under each, as
    loaders go by names and by what lies beside them. Only the digests that a hub cache has for
    names are left out, where a link to the same file is shown.

    Args:
        paths: Files and folders.
    """
    entered: set[_Identity] = set()
    found = {each.path: each for path in paths for each in _below(path, entered)}
    linked = {_identity(path) for path, each in found.items() if _is_link(each)}
    return tuple(
        each
        for path, each in sorted(found.items())
        if each.trouble or not _is_blob(path) or _identity(path) not in linked
    )


def _is_link(found: Found) -> bool:
    return not found.trouble and found.path.is_symlink()


def _is_blob(path: Path) -> bool:
    is_named_so = path.parent.name == _BLOBS and _DIGEST.fullmatch(path.name)
    return bool(is_named_so) and not path.is_symlink()


def _below(path: Path, entered: set[_Identity]) -> Iterator[Found]:
    # No recursion: folders may be deeper than the stack of Python.
    waiting = [path]
    while waiting:
        path = waiting.pop()
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                if (identity := (status.st_dev, status.st_ino)) not in entered:
                    entered.add(identity)
                    waiting += sorted(path.iterdir(), reverse=True)
            elif not stat.S_ISREG(status.st_mode):
                yield Found(path, "neither a file nor a folder")
            elif status.st_size == 0:
                yield Found(path, "an empty file")
            else:
                with path.open("rb"):
                    yield Found(path)
        except OSError as error:
            # A link that leads nowhere, or around in a circle, leads nobody to anything.
            is_nothing = error.errno in (errno.ENOENT, errno.ELOOP)
            yield Found(path, error.strerror or str(error), is_hidden=not is_nothing)


def _identity(path: Path) -> _Identity:
    status = path.stat()
    return status.st_dev, status.st_ino
