"""What a folder holds that can be held to something else: adapters and the record of a run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, final

from loricate.adapters.adapter import Adapter
from loricate.adapters.files import open_adapter
from loricate.adapters.formats.peft import CONFIG, WEIGHTS
from loricate.basics.errors import LoricateError
from loricate.integrity.digest import stated_bases
from loricate.integrity.hashing import FileEntry
from loricate.records.io import RECORD_FILE, read_record
from loricate.records.schema import RunRecord

__all__ = ["HARDENED", "Contents", "contents_of"]

HARDENED: Final = "vae"
"""Component whose base the record of a run states."""

_MARKS = (".lora_", "_lora.", ".lora.")


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Contents:
    """What was found in a folder.

    Args:
        folder: The folder.
        record: The record of a run, where there is one.
        adapters: Adapters by relative path.
        unread: Why other files that look like adapters, or a record, could not be read, by path.
    """

    folder: Path
    record: RunRecord | None
    adapters: Mapping[str, Adapter]
    unread: Mapping[str, str]

    @property
    def bases(self) -> dict[str, dict[str, str]]:
        """Digest of the base of each component, by the path of what states it."""
        stated: dict[str, dict[str, str]] = {}
        for path, adapter in self.adapters.items():
            for component, each in stated_bases(adapter).items():
                stated.setdefault(component, {})[path] = each
        if self.record is not None and self.record.integrity is not None:
            expected = self.record.integrity.base_digest_before
            stated.setdefault(HARDENED, {})[RECORD_FILE] = expected
        return {component: stated[component] for component in sorted(stated)}


def contents_of(folder: Path, files: Mapping[str, FileEntry]) -> Contents:
    """Adapters and record of a folder.

    Args:
        folder: The folder.
        files: Its files.
    """
    record, adapters, unread = None, {}, {}
    for path in _adapter_paths(files):
        try:
            adapters[path] = open_adapter(folder / path).adapter
        except LoricateError as error:
            unread[path] = str(error)
    if RECORD_FILE in files:
        try:
            record = read_record(folder)
        except LoricateError as error:
            unread[RECORD_FILE] = str(error)
    return Contents(folder=folder, record=record, adapters=adapters, unread=unread)


def _adapter_paths(files: Mapping[str, FileEntry]) -> Iterable[str]:
    for name, entry in files.items():
        if any(mark in tensor for tensor in entry.tensors or () for mark in _MARKS):
            path = PurePosixPath(name)
            is_peft = path.name == WEIGHTS and str(path.parent / CONFIG) in files
            yield str(path.parent) if is_peft else name
