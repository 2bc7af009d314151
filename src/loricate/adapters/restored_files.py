"""Files of weights with an update taken out again, and proof that they are the base."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from loricate.adapters._stream import raw_bytes, write_stream
from loricate.adapters.baked_files import PROVENANCE, tensor_digest
from loricate.adapters.baking import FLOATS, Patch, restored_blocks
from loricate.adapters.parts import Part
from loricate.adapters.undo import Undo
from loricate.adapters.weights import StoredArray, Weights
from loricate.basics.arrays import unit_roundoff
from loricate.basics.errors import NumericalError, ShapeError

__all__ = ["RestoredTensor", "Unbaking", "unbake_part"]


@dataclass(frozen=True, kw_only=True)
class RestoredTensor:
    """One tensor on the way back to the base.

    Args:
        name: Its name in the file.
        is_base: Whether it is the base's, bit for bit; ``None`` where nothing is known of that.
        max_error: How far any entry is off the base; where that is unknown, how far it may be off
            if it was this update that was added, with one rounding; infinite where it is known to
            be another tensor's.
    """

    name: str
    is_base: bool | None
    max_error: float


@dataclass(frozen=True, kw_only=True)
class Unbaking:
    """What is known of the base that an update is taken out to.

    Args:
        undo: Record of the base.
        reference: The base itself.
        observe: Called after each tensor.
    """

    undo: Undo | None = None
    reference: Weights | None = None
    observe: Callable[[], None] = lambda: None


def unbake_part(part: Part, path: Path, how: Unbaking) -> tuple[RestoredTensor, ...]:
    """Write a part with its patches taken out, and compare it with what is known of the base.

    Args:
        part: What to write.
        path: File in a staging folder.
        how: What is known of the base.

    Returns:
        One entry for each tensor.

    Raises:
        ShapeError: The base has other tensors.
        NumericalError: What would be the base is not finite, which no base is.
        HostileFileError: The record of the base is malformed.
    """
    restorer = _Restorer(part, how)
    entries = {
        name: (restorer.dtype(name), part.weights.shape(name))
        for name in part.weights.in_disk_order()
    }
    write_stream(path, entries, restorer.content, restorer.metadata())
    return tuple(restorer.restored)


@final
class _Restorer:
    """State of one file while an update is taken out of it."""

    def __init__(self, part: Part, how: Unbaking) -> None:
        self._part = part
        self._how = how
        self.restored: list[RestoredTensor] = []
        for known in (how.undo and how.undo.base, how.reference):
            if known is not None and known.keys() != part.weights.keys():
                differing = sorted(known.keys() ^ part.weights.keys())
                raise ShapeError("the tensors of the base", differing[:3])

    def metadata(self) -> dict[str, str]:
        if self._how.undo is not None:
            return dict(self._how.undo.metadata)
        own = self._part.metadata.items()
        return {key: text for key, text in own if not key.startswith(PROVENANCE)}

    def dtype(self, name: str) -> np.dtype[Any]:
        stored = self._part.weights.dtype(name)
        if self._how.reference is not None:
            return self._how.reference.dtype(name)
        known = self._how.undo.base[name].dtype if self._how.undo is not None else ""
        return FLOATS.get(known, stored)

    def content(self, name: str) -> Iterator[memoryview]:
        stored = self._part.weights[name]
        patches = self._part.patches.get(name, ())
        restored, error = stored, 0.0
        if patches or self.dtype(name) != stored.dtype:
            restored, error = self._restored(name, stored, patches)
        is_base = self._is_base(name, restored)
        if is_base is False:
            error = self._distance(name, restored)
        self.restored.append(
            RestoredTensor(name=name, is_base=is_base, max_error=0.0 if is_base else error)
        )
        yield from raw_bytes(restored)
        self._how.observe()

    def _restored(
        self, name: str, stored: StoredArray, patches: Sequence[Patch]
    ) -> tuple[StoredArray, float]:
        restored = np.empty(stored.size, self.dtype(name))
        position = 0
        for block in restored_blocks(stored, patches, restored.dtype):
            restored[position : position + block.size] = block.reshape(-1)
            position += block.size
        restored = restored.reshape(stored.shape)
        if self._how.undo is not None:
            restored = self._how.undo.corrected(name, restored)
        if not np.isfinite(restored).all():
            hint = "is this the adapter that was baked, and the gain?"
            raise NumericalError("what would be the base is not finite", where=name, hint=hint)
        roundoff = sum(unit_roundoff(array) * _largest(array) for array in (stored, restored))
        return restored, roundoff

    def _is_base(self, name: str, restored: StoredArray) -> bool | None:
        digest = tensor_digest(restored)
        if self._how.undo is not None and digest != self._how.undo.base[name].digest:
            return False
        if self._how.reference is not None:
            return digest == tensor_digest(self._how.reference[name])
        return None if self._how.undo is None else True

    def _distance(self, name: str, restored: StoredArray) -> float:
        if self._how.reference is None or self._how.reference.shape(name) != restored.shape:
            return math.inf
        return _largest(restored.astype(np.float64) - self._how.reference[name])


def _largest(array: StoredArray) -> float:
    return float(np.abs(array).max(initial=0.0))
