"""Whether the weights in a folder are those of a base, with an update or without."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, final

from loricate.adapters.adapter import Adapter
from loricate.adapters.baked_files import PROVENANCE
from loricate.adapters.formats.peft import WEIGHTS
from loricate.adapters.keys import BASE_DIGEST, COMPONENT_KEY
from loricate.adapters.tensors import TensorFile
from loricate.adapters.weights import open_weights
from loricate.basics.errors import IntegrityError, LoricateError
from loricate.integrity._base_model import open_base
from loricate.integrity.contents import Contents
from loricate.integrity.digest import baked_digest, digest
from loricate.integrity.hashing import FileEntry
from loricate.integrity.merge_check import TensorCheck, check_merge
from loricate.integrity.verification import Claim, known_digests
from loricate.records.io import RECORD_FILE

__all__ = ["merge_claims"]

_LISTED: Final = 20
_OURS: Final = "loricate."
_KNOWN: Final = (BASE_DIGEST, COMPONENT_KEY, f"{PROVENANCE}adapter", f"{PROVENANCE}gain")


@final
@dataclass(frozen=True, kw_only=True)
class _Merged:
    """Weights that are said to be base plus update.

    Args:
        path: File, or folder of a component, in the folder that is verified.
        said: What headers of ours say of them.
        is_stated: Whether a record or a header says that they are merged.
    """

    path: str
    said: Mapping[str, str]
    is_stated: bool

    @property
    def is_ours(self) -> bool:
        """Whether a header says that ``bake`` wrote them."""
        return any(key.startswith(PROVENANCE) for key in self.said)

    @property
    def gain(self) -> float:
        """Factor in front of the update.

        Raises:
            IntegrityError: The header states none that is a number.
        """
        stated = self.said.get(f"{PROVENANCE}gain", "1.0")
        try:
            gain = float(stated)
        except ValueError:
            gain = math.nan
        if not math.isfinite(gain):
            raise IntegrityError(f"the gain in the header, {stated!r:.80}, which is no number,")
        return gain


def merge_claims(
    contents: Contents, files: Mapping[str, FileEntry], base: Path | None
) -> Iterator[Claim]:
    """Whether merged weights in a folder are base plus update, tensor by tensor.

    Weights that no adapter updates are held to the base as they are. Every file of tensors that
    nothing was held to is listed as not verified.

    Args:
        contents: Adapters and record.
        files: Files of the folder.
        base: The model; ``None`` leaves it open.

    Raises:
        LoricateError: The model cannot be read.
    """
    for path in sorted(contents.unread.keys() - {RECORD_FILE}):
        why = f"the adapter could not be read: {contents.unread[path]}"
        yield Claim(name="merge", path=path, passed=None, message=why, is_asked=base is not None)
    merged = _merged(contents, files)
    if base is None:
        for each in merged:
            why = "not compared; name the model with --base"
            yield _claim(each.path, None, why, is_asked=False)
        return
    compared: set[str] = set()
    for each in merged:
        compared |= _files_of(contents.folder, each.path)
        yield from _held(contents, each, base)
    rest = sorted(path for path in _weight_files(contents, files) if path not in compared)
    yield from _unchanged(contents.folder, rest, base)


def _claim(path: str, passed: bool | None, message: str, *, is_asked: bool = True) -> Claim:
    return Claim(name="merge", path=path, passed=passed, message=message, is_asked=is_asked)


def _merged(contents: Contents, files: Mapping[str, FileEntry]) -> list[_Merged]:
    """Merged models of a folder, sorted by path."""
    components = {part for each in contents.adapters.values() for part in each.components}
    outputs = contents.record.outputs if contents.record is not None else {}
    folders = {outputs.get(part, part).rstrip("/") for part in components}
    found: dict[str, dict[str, str]] = {}
    for path in _weight_files(contents, files):
        metadata = TensorFile(contents.folder / path).metadata
        said = {key: text for key, text in metadata.items() if key.startswith(_OURS)}
        parent = path.rpartition("/")[0]
        if parent in folders:
            found.setdefault(parent, {}).update(said)
        elif any(key.startswith(PROVENANCE) for key in said):
            found[path] = said
    return [
        _Merged(path=path, said=said, is_stated=bool(said) or contents.record is not None)
        for path, said in sorted(found.items())
    ]


def _weight_files(contents: Contents, files: Mapping[str, FileEntry]) -> Iterator[str]:
    """Files of tensors that are no adapters."""
    known = {*contents.adapters, *contents.unread}
    adapters = known | {(PurePosixPath(path) / WEIGHTS).as_posix() for path in known}
    for path, entry in files.items():
        if entry.tensors is not None and path not in adapters:
            yield path


def _files_of(folder: Path, path: str) -> set[str]:
    """Files that weights are read from, of which a folder may hold more."""
    if (folder / path).is_file():
        return {path}
    try:
        sources = open_weights(folder / path).sources.values()
    except LoricateError:
        return set()
    return {file.path.relative_to(folder).as_posix() for file, _ in sources}


def _held(contents: Contents, merged: _Merged, base: Path) -> Iterator[Claim]:
    """Merged weights held to base plus update, and what else their header says."""
    try:
        adapter = _the_adapter(contents, merged.path)
        path = contents.folder / merged.path
        update = adapter.scaled(merged.gain)
        checks = list(check_merge(update, base, path, is_ours=merged.is_ours))
    except LoricateError as error:
        yield _claim(merged.path, None, str(error))
        return
    yield from _doubts(contents, merged, adapter)
    yield from _judged(merged, checks)


def _doubts(contents: Contents, merged: _Merged, adapter: Adapter) -> Iterator[Claim]:
    """What a header says that was not taken into account, or that the record does not say."""
    for key in sorted(merged.said.keys() - {*_KNOWN}):
        if not key.startswith(f"{BASE_DIGEST}."):
            yield _claim(merged.path, None, f"its header states {key!r}, which nobody here knows")
    if contents.record is not None and merged.gain != 1.0:
        why = f"merged at gain {merged.gain:g}, while the record is about the adapter itself"
        yield _claim(merged.path, None, why)
    stated = merged.said.get(f"{PROVENANCE}adapter")
    if stated is not None and stated != baked_digest(adapter):
        yield _claim(merged.path, None, "its header names another adapter than that in the folder")


def _the_adapter(contents: Contents, path: str) -> Adapter:
    """The adapter that was merged into a file or folder."""
    name = path.rpartition("/")[2]
    fitting = [
        each.only([name]) if name in each.components else each
        for each in contents.adapters.values()
        if name in each.components or "/" not in path
    ]
    if len(fitting) != 1:
        raise IntegrityError(f"{len(fitting)} adapters in the folder, of which one was merged,")
    return fitting[0]


def _unchanged(folder: Path, paths: Sequence[str], base: Path) -> Iterator[Claim]:
    """Other weights, which may be parts of the base as they are."""
    parts = open_base(base)
    for path in paths:
        parent = path.rpartition("/")[0]
        part = parent.rpartition("/")[2]
        is_read = part in parts and path in _files_of(folder, parent)
        own = digest(open_weights(folder / parent)) if is_read else ""
        if is_read and own in known_digests(part, parts[part], {own}):
            yield _claim(path, True, f"it is the {part} of the base")
        else:
            yield _claim(path, None, "held to nothing: neither the base's, nor that of an adapter")


def _judged(merged: _Merged, checks: Sequence[TensorCheck]) -> Iterator[Claim]:
    """One claim for each tensor that is wrong or open, or one for all."""
    updated = [each for each in checks if each.is_updated]
    if all(each.is_base for each in updated) and not all(each.is_exact for each in updated):
        yield _claim(merged.path, not merged.is_stated, "it is the base, without the update")
        return
    wrong = [each for each in checks if each.passed is not True]
    for each in wrong[:_LISTED]:
        yield Claim(
            name="merge", path=merged.path, passed=each.passed, message=each.why, where=each.name
        )
    if len(wrong) > _LISTED:
        passed = False if any(each.passed is False for each in wrong[_LISTED:]) else None
        yield _claim(merged.path, passed, f"and {len(wrong) - _LISTED} more tensors")
    if not wrong:
        at = "" if merged.gain == 1.0 else f", at gain {merged.gain:g}"
        yield _claim(merged.path, True, _praise(checks) + at)


def _praise(checks: Sequence[TensorCheck]) -> str:
    counts = Counter((each.is_updated, each.is_exact) for each in checks)
    n_exact, n_rounded = counts[True, True], counts[True, False] + counts[False, False]
    rounded = f", {n_rounded} within rounding" if n_rounded else ""
    unchanged = f"{counts[False, True]} are as in the base"
    return f"{n_exact} tensors are base plus update bit for bit{rounded}, {unchanged}"
