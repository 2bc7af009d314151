"""Files of weights with an update baked in, written tensor by tensor."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np

from loricate.adapters._stream import raw_bytes, write_stream
from loricate.adapters.baking import FLOATS, Loss, Tally, baked_blocks
from loricate.adapters.parts import Part
from loricate.adapters.undo import BaseTensor, CorrectionWriter, Undo, undo_path
from loricate.adapters.weights import StoredArray
from loricate.basics.arrays import dtype_name
from loricate.basics.errors import NumericalError

__all__ = ["PROVENANCE", "BakedTensor", "Baking", "bake_part", "tensor_digest"]

PROVENANCE: Final = "loricate.baked."
"""Prefix of header entries that say what was baked into a file."""

# Header entries that state a hash of the weights, which is no longer theirs.
_HASHES = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")


@dataclass(frozen=True, kw_only=True)
class BakedTensor:
    """One tensor that an update was written into.

    Args:
        name: Its name in the file.
        shape: Its shape.
        dtype: Its dtype in the file.
        loss: What rounding cost.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    loss: Loss


@dataclass(frozen=True, kw_only=True)
class Baking:
    """How an update is written into weights.

    Args:
        dtype: Name of the dtype of all floats; ``None`` keeps that of each tensor.
        provenance: What header and record say about the update, below ``PROVENANCE``; ``None``
            keeps no record, and then the base cannot be restored to the bit.
        observe: Called after each tensor.
    """

    dtype: str | None = None
    provenance: Mapping[str, str] | None = None
    observe: Callable[[], None] = lambda: None


def bake_part(part: Part, path: Path, how: Baking) -> tuple[BakedTensor, ...]:
    """Write a part with its patches added; other tensors keep every byte.

    Args:
        part: What to write.
        path: File in a staging folder; the record of the base is written beside it.
        how: How.

    Returns:
        One entry for each tensor that a patch or a change of dtype went through.

    Raises:
        NumericalError: An entry does not fit into the dtype, or the base is not finite.
    """
    baker = _Baker(part, how)
    entries = {
        name: (baker.dtype(name), part.weights.shape(name)) for name in part.weights.in_disk_order()
    }
    kept = {key: text for key, text in part.metadata.items() if key not in _HASHES}
    write_stream(path, entries, baker.content, {"format": "pt"} | kept | baker.provenance)
    if how.provenance is not None:
        baker.undo().write(undo_path(path))
    return tuple(baker.baked)


def tensor_digest(array: StoredArray) -> str:
    """SHA-256 of the bytes of a tensor."""
    digest = hashlib.sha256()
    for piece in raw_bytes(array):
        digest.update(piece)
    return digest.hexdigest()


@final
class _Baker:
    """State of one file while an update is written into it."""

    def __init__(self, part: Part, how: Baking) -> None:
        self._part = part
        self._how = how
        self._base: dict[str, BaseTensor] = {}
        self._corrections: dict[str, StoredArray] = {}
        self.provenance = {PROVENANCE + key: text for key, text in (how.provenance or {}).items()}
        self.baked: list[BakedTensor] = []

    def dtype(self, name: str) -> np.dtype[Any]:
        own = self._part.weights.dtype(name)
        return FLOATS.get(self._how.dtype or "", own) if dtype_name(own) in FLOATS else own

    def content(self, name: str) -> Iterator[memoryview]:
        weight = self._part.weights[name]
        if self._how.provenance is not None:
            self._base[name] = BaseTensor(str(weight.dtype), tensor_digest(weight))
        if name in self._part.patches or self.dtype(name) != weight.dtype:
            yield from self._changed(name, weight)
        else:
            yield from raw_bytes(weight)
        self._how.observe()

    def _changed(self, name: str, weight: StoredArray) -> Iterator[memoryview]:
        tally, corrections = Tally(), CorrectionWriter()
        patches = self._part.patches.get(name, ())
        with _named(name):
            for block in baked_blocks(weight, patches, self.dtype(name)):
                tally.add(block)
                if self._how.provenance is not None:
                    corrections.add(block)
                yield from raw_bytes(block.after)
        if (correction := corrections.correction()) is not None:
            self._corrections[name] = correction.pack()
        dtype = str(self.dtype(name))
        self.baked.append(
            BakedTensor(name=name, shape=weight.shape, dtype=dtype, loss=tally.loss())
        )

    def undo(self) -> Undo:
        return Undo(
            base=self._base,
            metadata=self._part.metadata,
            corrections=self._corrections,
            provenance=self.provenance,
        )


@contextmanager
def _named(tensor: str) -> Iterator[None]:
    try:
        yield
    except NumericalError as error:
        raise NumericalError(error.what, where=tensor, hint=error.hint) from None
