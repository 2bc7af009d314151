"""Digests of every file of a folder and of every tensor in them, in one pass over the bytes."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

from loricate.adapters.tensors import TensorFile, TensorInfo
from loricate.basics.errors import HostileFileError, LoricateError, PrerequisiteError
from loricate.integrity._suffixes import CODE, WEIGHTS

__all__ = ["IGNORED", "FileEntry", "TensorEntry", "Unlisted", "measure", "unlisted"]

Unlisted: TypeAlias = Literal["weights", "code", "folder"]

IGNORED: Final = (".cache/huggingface", ".git", ".gitattributes", ".github", ".gitignore")
"""What tools of transport leave at the top of a folder; no part of a model."""

_HOOKS: Final = ".git/hooks/"

_CHUNK_BYTES: Final = 1 << 22
_WORKERS: Final = min(4, os.cpu_count() or 1)


@final
@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Canonical header of one tensor, but for its name, and the digest of its bytes.

    Args:
        dtype: Name of the dtype, such as ``float32``.
        shape: Shape.
        sha256: Digest of the bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str


@final
@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What is known of one file.

    Args:
        sha256: Digest of all its bytes.
        size_bytes: How many there are.
        tensors: Its tensors by name; ``None`` where it is no safetensors file.
    """

    sha256: str
    size_bytes: int
    tensors: Mapping[str, TensorEntry] | None = None


def measure(
    folder: Path, *, skip: frozenset[str] = frozenset(), strict: bool = True
) -> dict[str, FileEntry]:
    """Entry of every file at and below a folder, by relative POSIX path, sorted.

    Links to files are followed, as a hub cache is made of them: what counts is the content.

    Args:
        folder: The folder.
        skip: Paths to leave out, besides ``IGNORED``.
        strict: Whether a malformed safetensors file is refused. Otherwise it has no tensors.

    Raises:
        PrerequisiteError: There is no such folder, or a file cannot be read.
        HostileFileError: A link leads to a folder or nowhere, something is neither file nor
            folder, a name is no Unicode, or a safetensors file is malformed.
        UnsupportedError: A tensor has a dtype that is not known.
    """
    with _readable(folder):
        paths = {name: path for name, path in _walk(folder) if name not in skip}
        # The largest first, so that no worker begins it when the others are done.
        order = sorted(paths, key=lambda name: -paths[name].stat().st_size)
        with ThreadPoolExecutor(_WORKERS) as files, ThreadPoolExecutor(_WORKERS) as halves:
            begun = {name: files.submit(_entry, paths[name], halves, strict) for name in order}
            return {name: begun[name].result() for name in sorted(paths)}


def unlisted(folder: Path) -> dict[str, Unlisted]:
    """Weights and code in what ``measure`` leaves out, by relative POSIX path, sorted.

    Names tell them, hooks of git are code but for the samples. A folder that cannot be listed, and
    a link to one, which is not followed, are told as well.

    Args:
        folder: The folder.
    """
    found: dict[str, Unlisted] = {}
    # No recursion: folders may be deeper than the stack of Python.
    waiting = list(IGNORED)
    while waiting:
        name = waiting.pop()
        path = folder / name
        try:
            if not path.is_dir():
                kind = _loadable(name) if os.path.lexists(path) else None
            elif path.is_symlink():
                kind = "folder"
            else:
                kind = None
                waiting += [f"{name}/{each.name}" for each in path.iterdir()]
        except OSError:
            kind = "folder"
        if kind is not None:
            found[name] = kind
    return dict(sorted(found.items()))


def _loadable(name: str) -> Unlisted | None:
    if name.lower().endswith(WEIGHTS):
        return "weights"
    is_hook = name.startswith(_HOOKS) and not name.endswith(".sample")
    return "code" if is_hook or name.lower().endswith(tuple(CODE)) else None


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    # No recursion: folders may be deeper than the stack of Python.
    waiting = [(folder, "")]
    while waiting:
        parent, prefix = waiting.pop()
        with os.scandir(parent) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            name, path = prefix + entry.name, parent / entry.name
            if name in IGNORED:
                continue
            if not entry.name.isprintable() and not _is_unicode(entry.name):
                raise HostileFileError(path, reason="its name is no Unicode")
            if entry.is_dir(follow_symlinks=False):
                waiting.append((path, f"{name}/"))
            elif entry.is_file():
                yield name, path
            else:
                raise HostileFileError(path, reason=_oddity(path))


def _oddity(path: Path) -> str:
    if path.is_dir():
        return "a link to a folder; put the folder itself there"
    return "a link that leads nowhere" if path.is_symlink() else "neither a file nor a folder"


def _is_unicode(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        missing = f"a readable {str(error.filename or folder)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="check the path and its permissions") from error


def _entry(path: Path, halves: Executor, strict: bool) -> FileEntry:
    if path.suffix.lower() != ".safetensors":
        digest, size = _hashed(path, None, halves)
        return FileEntry(sha256=digest, size_bytes=size)
    try:
        infos = TensorFile(path).infos
    except LoricateError:
        if strict:
            raise
        digest, size = _hashed(path, None, halves)
        return FileEntry(sha256=digest, size_bytes=size)
    parts = _TensorHashes(infos)
    digest, size = _hashed(path, parts, halves)
    return FileEntry(sha256=digest, size_bytes=size, tensors=parts.entries())


def _hashed(path: Path, parts: "_TensorHashes | None", halves: Executor) -> tuple[str, int]:
    """Digest and size of a file; its tensors are hashed meanwhile, on another core."""
    whole, position = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if parts is None:
                whole.update(chunk)
            else:
                half = halves.submit(parts.update, position, chunk)
                whole.update(chunk)
                half.result()
            position += len(chunk)
    return whole.hexdigest(), position


@final
class _TensorHashes:
    """Digests of the tensors of a file while its bytes pass by in order."""

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self._infos = infos
        self._hashes = {name: hashlib.sha256() for name in infos}
        filled = [name for name, info in infos.items() if info.size_bytes]
        self._order = sorted(filled, key=lambda name: infos[name].start)
        self._next = 0

    def update(self, position: int, chunk: bytes) -> None:
        view, end = memoryview(chunk), position + len(chunk)
        while self._next < len(self._order):
            name = self._order[self._next]
            start, stop = self._infos[name].start, self._end(name)
            self._hashes[name].update(view[max(start - position, 0) : max(stop - position, 0)])
            if stop > end:
                return
            self._next += 1

    def entries(self) -> dict[str, TensorEntry]:
        return {
            name: TensorEntry(
                dtype=str(info.dtype), shape=info.shape, sha256=self._hashes[name].hexdigest()
            )
            for name, info in sorted(self._infos.items())
        }

    def _end(self, name: str) -> int:
        return self._infos[name].start + self._infos[name].size_bytes
