"""Which bytes belong together: files, tensors, adapters, their base and the evidence."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar, final

from loricate.adapters.tensors import bounded_json
from loricate.basics.errors import (
    HostileFileError,
    IntegrityError,
    PrerequisiteError,
    UnsupportedError,
)
from loricate.basics.files import write_atomically
from loricate.integrity.contents import Contents
from loricate.integrity.digest import adapter_digest
from loricate.integrity.hashing import FileEntry, TensorEntry
from loricate.records.io import RECORD_FILE

__all__ = [
    "MANIFEST",
    "REPORT",
    "VERSION",
    "Difference",
    "FileEntry",
    "Manifest",
    "TensorEntry",
    "differences",
    "manifest_of",
    "read_manifest",
    "require_fresh",
    "write_manifest",
]

MANIFEST: Final = "loricate-manifest.json"
VERSION: Final = 1

REPORT: Final = "report.html"
"""Page of a run, beside its record."""

_FORMAT: Final = "loricate-manifest"
_MAX_BYTES: Final = 1 << 28


@final
@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a folder is made of. Equal folders have equal manifests, whenever they are made.

    Args:
        files: Every file by relative POSIX path, but for the manifest itself and its signature.
        adapters: Digest of every adapter by path: of its factors, whatever its form.
        bases: Digest of the base of each component, by the path of what states it.
        evidence: Digest of the bytes of ``record`` and ``report``, where there are any.
        loricate: Version that wrote it.
    """

    files: Mapping[str, FileEntry]
    adapters: Mapping[str, str] = field(default_factory=dict)
    bases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)
    loricate: str = field(default_factory=lambda: version("loricate"))

    def states_the_same(self, other: "Manifest") -> bool:
        """Whether another manifest says the same of the folder, whatever version wrote it."""
        return replace(other, loricate=self.loricate) == self


@final
@dataclass(frozen=True, kw_only=True)
class Difference:
    """One entry in which a folder is not what was stated.

    Args:
        path: The file.
        what: What is different, in words.
        tensor: The tensor, where one is.
    """

    path: str
    what: str
    tensor: str | None = None

    @property
    def entry(self) -> str:
        """Name of what differs."""
        return self.path if self.tensor is None else f"{self.path}:{self.tensor}"


def manifest_of(files: Mapping[str, FileEntry], contents: Contents) -> Manifest:
    """Manifest of a folder.

    Args:
        files: Its files.
        contents: Its adapters and record.
    """
    is_run = contents.record is not None
    places = {"record": RECORD_FILE, "report": REPORT} if is_run else {}
    return Manifest(
        files=files,
        adapters={path: adapter_digest(each) for path, each in contents.adapters.items()},
        bases=contents.bases,
        evidence={role: files[path].sha256 for role, path in places.items() if path in files},
    )


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Write the manifest of a folder into it, completely or not at all.

    Args:
        folder: The folder.
        manifest: What to write.

    Returns:
        Path of the file.

    Raises:
        PrerequisiteError: There is no room or permission to write.
    """
    table = {"format": _FORMAT, "version": VERSION, **_table(manifest)}
    # Escapes keep every name as it is, and make those visible that hide in other texts.
    text = json.dumps(table, indent=1, ensure_ascii=True)
    path = folder / MANIFEST
    try:
        write_atomically(path, f"{text}\n".encode())
    except OSError as error:
        missing = f"a place to write {str(path)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="take a copy that can be written to") from error
    return path


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest in a folder, or ``None`` if there is none.

    Args:
        folder: The folder.

    Raises:
        HostileFileError: It is oversize or malformed.
        UnsupportedError: It was written by a newer version.
        PrerequisiteError: It cannot be read.
    """
    path = folder / MANIFEST
    try:
        if not path.is_file():
            return None
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise HostileFileError(path, reason=f"{size} bytes exceed {_MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        missing = f"a readable file {str(path)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="check its permissions") from error
    try:
        table = bounded_json(content, object_pairs_hook=_unique)
        return _parsed(_typed(table, dict))
    except (ValueError, RecursionError) as error:
        raise HostileFileError(path, reason=f"not a manifest: {error}") from None


def differences(
    stated: Mapping[str, FileEntry], found: Mapping[str, FileEntry]
) -> tuple[Difference, ...]:
    """Entries in which files are not what was stated, sorted by path.

    Args:
        stated: Files of a manifest.
        found: Files of a folder.
    """
    return tuple(
        each
        for path in sorted(stated.keys() | found.keys())
        for each in _file_differences(path, stated, found)
    )


def _file_differences(
    path: str, stated: Mapping[str, FileEntry], found: Mapping[str, FileEntry]
) -> Iterator[Difference]:
    before, after = stated.get(path), found.get(path)
    if before is None or after is None:
        yield Difference(path=path, what=_gone_or_new(path, stated, found))
        return
    changed = [
        Difference(path=path, what=what, tensor=name)
        for name, what in _tensor_differences(before.tensors or {}, after.tensors or {})
    ]
    yield from changed
    if not changed and before != after:
        is_header = before.tensors is not None and before.tensors == after.tensors
        yield Difference(path=path, what="its header differs" if is_header else "its bytes differ")


def _gone_or_new(path: str, stated: Mapping[str, FileEntry], found: Mapping[str, FileEntry]) -> str:
    here, there, word = (found, stated, "added") if path in found else (stated, found, "missing")
    moved = [name for name, each in there.items() if each == here[path] and name not in here]
    if not moved:
        return word
    return f"{word}: it was {moved[0]!r}" if word == "added" else f"{word}: now {moved[0]!r}"


def _tensor_differences(
    before: Mapping[str, TensorEntry], after: Mapping[str, TensorEntry]
) -> Iterator[tuple[str, str]]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            yield name, "missing" if new is None else "added"
        elif old.dtype != new.dtype:
            yield name, f"dtype {new.dtype}, stated was {old.dtype}"
        elif old.shape != new.shape:
            yield name, f"shape {list(new.shape)}, stated was {list(old.shape)}"
        elif old != new:
            yield name, "its bytes differ"


def require_fresh(stated: Manifest, found: Manifest) -> None:
    """Refuse a manifest that says something else than its folder.

    Args:
        stated: As it was read.
        found: As it would be written.

    Raises:
        IntegrityError: They differ; entries are listed.
    """
    if not stated.states_the_same(found):
        entries = [each.entry for each in differences(stated.files, found.files)] or [MANIFEST]
        what = f"the folder, which changed since {MANIFEST} was written (write it anew with "
        raise IntegrityError(f"{what}'loricate manifest' if that was meant),", entries=entries)


def _table(manifest: Manifest) -> dict[str, Any]:
    return {
        "loricate": manifest.loricate,
        "bases": _sorted({key: _sorted(each) for key, each in manifest.bases.items()}),
        "adapters": _sorted(manifest.adapters),
        "evidence": _sorted(manifest.evidence),
        "files": _sorted({path: _file_table(each) for path, each in manifest.files.items()}),
    }


def _file_table(entry: FileEntry) -> dict[str, Any]:
    table: dict[str, Any] = {"sha256": entry.sha256, "size_bytes": entry.size_bytes}
    if entry.tensors is not None:
        table["tensors"] = {
            name: {"dtype": each.dtype, "shape": list(each.shape), "sha256": each.sha256}
            for name, each in sorted(entry.tensors.items())
        }
    return table


V = TypeVar("V")


def _sorted(table: Mapping[str, V]) -> dict[str, V]:
    return dict(sorted(table.items()))


def _parsed(table: dict[str, Any]) -> Manifest:
    if table.get("format") != _FORMAT:
        raise ValueError(f"expected format {_FORMAT!r}, got {table.get('format')!r}")
    number = _typed(table.get("version"), int)
    if number != VERSION:
        hint = "upgrade loricate" if number > VERSION else "write it anew"
        by = f"this version, which reads {VERSION}"
        raise UnsupportedError(f"manifest version {number}", by=by, hint=hint)
    return Manifest(
        files=_mapped(table.get("files"), _file_entry),
        adapters=_mapped(table.get("adapters"), _text),
        bases=_mapped(table.get("bases"), lambda each: _mapped(each, _text)),
        evidence=_mapped(table.get("evidence"), _text),
        loricate=_text(table.get("loricate")),
    )


def _file_entry(value: object) -> FileEntry:
    table = _typed(value, dict)
    tensors = table.get("tensors")
    return FileEntry(
        sha256=_text(table.get("sha256")),
        size_bytes=_typed(table.get("size_bytes"), int),
        tensors=None if tensors is None else _mapped(tensors, _tensor_entry),
    )


def _tensor_entry(value: object) -> TensorEntry:
    table = _typed(value, dict)
    shape = tuple(_typed(n, int) for n in _typed(table.get("shape"), list))
    return TensorEntry(
        dtype=_text(table.get("dtype")), shape=shape, sha256=_text(table.get("sha256"))
    )


def _mapped(value: object, read: Callable[[object], V]) -> dict[str, V]:
    return {key: read(each) for key, each in _typed(value, dict).items()}


def _text(value: object) -> str:
    return _typed(value, str)


def _typed(value: object, kind: type[V]) -> V:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"expected {kind.__name__}, got {value!r:.80}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice")
    return table
