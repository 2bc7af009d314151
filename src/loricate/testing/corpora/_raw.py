"""Safetensors files from the raw parts of their header, so that it can lie."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from loricate.adapters.tensors import save_tensors
from loricate.basics.arrays import Array

__all__ = ["Pairs", "RawFile"]


class Pairs(list[tuple[str, object]]):
    """A JSON object in which a key may occur twice."""


@final
@dataclass(frozen=True, kw_only=True)
class RawFile:
    """The parts of a safetensors file.

    Args:
        header: Its header, in order.
        data: All bytes behind the header.
        before: Bytes in front of the header's text, counted as part of it.
        after: Bytes behind the header's text, counted as part of it.
        length: Length the file states for its header; ``None`` states the true one.
    """

    header: Pairs
    data: bytes
    before: bytes = b""
    after: bytes = b""
    length: int | None = None

    @classmethod
    def of(
        cls, tensors: Mapping[str, Array], folder: Path, metadata: Mapping[str, str] | None = None
    ) -> "RawFile":
        """The parts of the file that the safetensors library writes.

        Args:
            tensors: What it holds.
            folder: Where there is room for a draft.
            metadata: Text for the header.
        """
        draft = folder / "draft.safetensors"
        save_tensors(draft, tensors, metadata)
        content = draft.read_bytes()
        draft.unlink()
        start = 8 + int.from_bytes(content[:8], "little")
        pairs = json.loads(content[8:start], object_pairs_hook=Pairs)
        return cls(header=pairs, data=content[start:])

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        return [key for key, _ in self.header if key != "__metadata__"]

    def entry(self, index: int) -> Pairs:
        """What the header says of a tensor, in a copy."""
        value = dict(self.header)[self.names[index]]
        assert isinstance(value, Pairs)
        return Pairs(value)

    def with_entry(self, index: int, name: str | None = None, **changes: object) -> "RawFile":
        """The same file with one tensor described in another way.

        Args:
            index: Position of the tensor.
            name: Another name for it.
            changes: Fields of its entry.
        """
        old = self.names[index]
        value = Pairs({**dict(self.entry(index)), **changes}.items())
        new = (old if name is None else name, value)
        return replace(self, header=Pairs(new if pair[0] == old else pair for pair in self.header))

    def with_pairs(self, *pairs: tuple[str, object]) -> "RawFile":
        """The same file with more pairs at the end of its header."""
        return replace(self, header=Pairs([*self.header, *pairs]))

    def write(self, path: Path) -> Path:
        """Write it and return its path."""
        text = self.before + _json(self.header).encode("utf-8", "surrogatepass") + self.after
        length = len(text) if self.length is None else self.length
        path.write_bytes(length.to_bytes(8, "little") + text + self.data)
        return path


def _json(value: object) -> str:
    if isinstance(value, Pairs):
        inside = ",".join(f"{json.dumps(key)}:{_json(each)}" for key, each in value)
        return f"{{{inside}}}"
    return json.dumps(value, separators=(",", ":"))
