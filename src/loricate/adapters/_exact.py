"""Products of factors whose every bit is the same on every machine."""

from typing import Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from loricate.adapters.tensors import to_storage
from loricate.lowrank.factors import LowRank

__all__ = ["Change"]

_Matrix: TypeAlias = NDArray[np.float64]

_SIGNIFICAND = 53


@final
class Change:
    """The dense form of an update in float64, a few rows at a time and reproducible to the bit.

    BLAS sums in an order of its own choice, so that a product in floating point has other last
    bits on another machine. Here both factors are cut into slices of so few bits that every
    product and every partial sum of two slices is exact, in whatever order it is taken. What is
    left out lies below 2^-40 of the largest entries.

    Args:
        update: The update.
        transposed: Whether the dense form is wanted transposed.

    Source: the error-free splitting of Ozaki et al. 2012 [ozaki2012].
    """

    def __init__(self, update: LowRank, *, transposed: bool = False) -> None:
        A, B = (_wide(factor) for factor in (update.A, update.B))
        left, right = (A.T, B.T) if transposed else (B, A)
        self.shape = (left.shape[0], right.shape[1])
        self._bits = (_SIGNIFICAND - max(0, update.rank - 1).bit_length()) // 2
        self._left = update.scale * left
        self._right = self._slices(right, axis=0)

    def rows(self, start: int, stop: int) -> _Matrix:
        """Rows ``start`` to ``stop`` of the dense form."""
        coarse, fine = self._slices(self._left[start:stop], axis=1)
        right_coarse, right_fine = self._right
        product: _Matrix = coarse @ right_coarse
        product += coarse @ right_fine + fine @ right_coarse
        return product

    def _slices(self, factor: _Matrix, axis: int) -> tuple[_Matrix, _Matrix]:
        coarse = self._leading_bits(factor, axis)
        return coarse, self._leading_bits(factor - coarse, axis)

    def _leading_bits(self, factor: _Matrix, axis: int) -> _Matrix:
        # One quantum for all entries that meet in a sum: its terms are multiples of one number.
        _, exponent = np.frexp(np.abs(factor).max(axis=axis, initial=0.0, keepdims=True))
        quantum: Any = np.ldexp(1.0, exponent - self._bits)
        leading: _Matrix = np.rint(factor / quantum) * quantum
        return leading


def _wide(factor: Any) -> _Matrix:
    wide: _Matrix = to_storage(factor).astype(np.float64)
    return wide
