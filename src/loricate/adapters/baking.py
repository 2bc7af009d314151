"""Updates written into stored weights block by block, and taken out again to the bit."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from loricate.adapters._exact import Change
from loricate.adapters.weights import StoredArray
from loricate.basics.errors import NumericalError
from loricate.lowrank.factors import LowRank

__all__ = [
    "FLOATS",
    "Block",
    "Loss",
    "Patch",
    "Tally",
    "baked_blocks",
    "bits",
    "restored_blocks",
    "taken_out",
]

FLOATS: Mapping[str, np.dtype[Any]] = {
    str(dtype): dtype
    for dtype in map(np.dtype, (np.float64, np.float32, np.float16, ml_dtypes.bfloat16))
}
"""Dtypes an update can be added to, by name."""

# Small enough for the cache: each block is passed over several times.
_BLOCK_ENTRIES = 1 << 17


class Patch(NamedTuple):
    """What is added to some rows of a stored matrix.

    Args:
        start: First row; a fused weight takes the updates of several modules, one below another.
        update: What is added.
        transposed: Whether it is added transposed.
    """

    start: int
    update: LowRank
    transposed: bool = False

    def change(self) -> Change:
        """What is added, ready to be computed."""
        return Change(self.update, transposed=self.transposed)


class Block(NamedTuple):
    """Some rows of a weight on their way into a file.

    Args:
        before: As the base has them.
        change: What is added, or ``None`` where nothing is.
        exact: The sum, before it is rounded to the dtype of the file.
        after: As they are stored.
    """

    before: StoredArray
    change: NDArray[np.float64] | None
    exact: StoredArray
    after: StoredArray


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What baking did to one stored tensor.

    Args:
        weight_norm: Frobenius norm of the base, over the rows that change.
        update_norm: Frobenius norm of what was to be added.
        lost_norm: Frobenius norm of what rounding took from the sum.
        n_underflow: Entries that rounding made zero.
    """

    weight_norm: float
    update_norm: float
    lost_norm: float
    n_underflow: int

    @property
    def retained_energy(self) -> float:
        """Share of the squared norm of the update that reached the file, at least 0."""
        if self.update_norm == 0:
            return 1.0
        return max(0.0, 1.0 - (self.lost_norm / self.update_norm) ** 2)


@final
class Tally:
    """Collects the loss of one tensor while its blocks pass by."""

    def __init__(self) -> None:
        self._squares = np.zeros(3)
        self._n_underflow = 0

    def add(self, block: Block) -> None:
        """Note one block."""
        self._n_underflow += int(np.count_nonzero(block.exact) - np.count_nonzero(block.after))
        if block.change is not None:
            parts = (block.before, block.change, block.after.astype(np.float64) - block.exact)
            self._squares += [_square(part) for part in parts]

    def loss(self) -> Loss:
        """What was found so far."""
        weight, update, lost = np.sqrt(self._squares)
        return Loss(
            weight_norm=float(weight),
            update_norm=float(update),
            lost_norm=float(lost),
            n_underflow=self._n_underflow,
        )


def baked_blocks(
    weight: StoredArray, patches: Sequence[Patch], dtype: np.dtype[Any]
) -> Iterator[Block]:
    """Blocks of a weight with patches added, in the order of their bytes.

    The sum is taken in float64 and rounded once.

    Args:
        weight: As the base has it.
        patches: What to add; none for a mere change of dtype.
        dtype: Dtype of the file.

    Raises:
        NumericalError: An entry does not fit into the dtype, or was not finite before.
    """
    for before, change in _blocks(weight, patches):
        exact = before if change is None else before.astype(np.float64) + change
        as_it_is = change is None and before.dtype == dtype
        yield Block(before, change, exact, before if as_it_is else _rounded(exact, dtype))


def restored_blocks(
    stored: StoredArray, patches: Sequence[Patch], dtype: np.dtype[Any]
) -> Iterator[StoredArray]:
    """Blocks of a baked weight with the patches taken out again, off by rounding alone.

    The same bits on every machine, and off the base by at most a unit roundoff of the stored
    entry and one of the result.

    Args:
        stored: As ``baked_blocks`` left it.
        patches: What was added.
        dtype: Dtype of the base.
    """
    for after, change in _blocks(stored, patches):
        yield taken_out(after, change, dtype)


def taken_out(
    after: StoredArray, change: NDArray[np.float64] | None, dtype: np.dtype[Any]
) -> StoredArray:
    """Some rows of a baked weight without what was added to them, rounded to the base's dtype."""
    if change is None and after.dtype == dtype:
        return after
    with np.errstate(over="ignore"):
        return (after if change is None else after.astype(np.float64) - change).astype(dtype)


def bits(array: StoredArray) -> StoredArray:
    """The entries as unsigned integers, in which neighboring floats of one sign are neighbors."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def _blocks(
    weight: StoredArray, patches: Sequence[Patch]
) -> Iterator[tuple[StoredArray, NDArray[np.float64] | None]]:
    n_rows = weight.shape[0] if weight.ndim > 1 else 1
    matrix = weight.reshape(n_rows, math.prod(weight.shape[weight.ndim > 1 :]))
    position = 0
    for patch in sorted(patches, key=lambda patch: patch.start):
        change = patch.change()
        yield from _rows(matrix, slice(position, patch.start), None)
        position = patch.start + change.shape[0]
        yield from _rows(matrix, slice(patch.start, position), change)
    yield from _rows(matrix, slice(position, n_rows), None)


def _rows(
    matrix: StoredArray, rows: slice, change: Change | None
) -> Iterator[tuple[StoredArray, NDArray[np.float64] | None]]:
    step = max(1, _BLOCK_ENTRIES // max(1, matrix.shape[1]))
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        added = None if change is None else change.rows(start - rows.start, stop - rows.start)
        yield matrix[start:stop], added


def _rounded(exact: StoredArray, dtype: np.dtype[Any]) -> StoredArray:
    with np.errstate(over="ignore"):
        after = exact.astype(dtype, copy=False)
    if n_lost := int(np.size(after) - np.count_nonzero(np.isfinite(after))):
        hint = "store it as float32" if dtype.itemsize < 4 else None
        raise NumericalError(f"{n_lost} values are not finite as {dtype}", hint=hint)
    return after


def _square(array: StoredArray) -> float:
    flat = array.reshape(-1).astype(np.float64, copy=False)
    return float(flat @ flat)
