"""Norms of low-rank products through the Gram matrices of their factors.

Squared norms are sums over ``(B.T @ B) * (A @ A.T)``, which costs less than a decomposition of the
factors. In float64 they are off by rounding alone, unless the terms of the product cancel. The
matrices are of the gauge in which column i of B and row i of A are equally long, so that no other
gauge of the factors costs digits.
"""

import math
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loricate.basics.arrays import to_numpy
from loricate.basics.errors import NumericalError
from loricate.lowrank.factors import LowRank
from loricate.lowrank.merge import concat

__all__ = ["Norms", "norms", "retained_energy", "singular_values", "widened"]

_Wide: TypeAlias = NDArray[np.float64]

# A Gram matrix knows its factor to half the digits. Where the product is that much smaller than
# its factors, they are decomposed instead.
_CANCELLED = 1e-6
_ROUNDOFF = float(np.finfo(np.float64).eps)


class Norms(NamedTuple):
    """Two norms of an update.

    Args:
        frobenius: Root of the sum of squared entries.
        spectral: Largest singular value.
    """

    frobenius: float
    spectral: float


def norms(update: LowRank) -> Norms:
    """Norms of an update to a relative error of 1e-8.

    Args:
        update: Finite factors of any dtype.

    Raises:
        NumericalError: The product overflows.
    """
    gram_a, gram_b = _grams(update)
    square, bound = _squares(gram_a, gram_b)
    if bound == 0.0:
        return Norms(0.0, 0.0)
    if square <= _CANCELLED * bound:
        wide = widened(update)
        return Norms(wide.frobenius_norm(), wide.spectral_norm())
    largest = float(_squared_values(gram_a, gram_b)[-1])
    gain = abs(update.scale)
    return Norms(gain * math.sqrt(square), gain * math.sqrt(largest))


def singular_values(update: LowRank) -> _Wide:
    """All singular values of an update in descending order, to 1e-7 of the largest.

    Args:
        update: Finite factors of any dtype.

    Returns:
        As many numbers as the rank, or as the shorter side of the update if that is less.

    Raises:
        NumericalError: The product overflows.
    """
    n_values = min(update.rank, *update.shape)
    gram_a, gram_b = _grams(update)
    square, bound = _squares(gram_a, gram_b)
    if bound == 0.0:
        return np.zeros(n_values)
    if square <= _CANCELLED * bound:
        return to_numpy(widened(update).singular_values())[:n_values]
    squares = _squared_values(gram_a, gram_b)[::-1][:n_values]
    return abs(update.scale) * np.sqrt(np.maximum(squares, 0.0))


def retained_energy(exact: LowRank, kept: LowRank) -> float:
    """Share of the squared Frobenius norm of an update that another one keeps, at least 0.

    Args:
        exact: The update.
        kept: What stands in for it, of the same shape.

    Returns:
        The share; 1 where all terms of the update cancel, as nothing was there to keep.

    Raises:
        NumericalError: The product overflows.
    """
    if exact.A is kept.A and exact.B is kept.B and exact.scale == kept.scale:
        return 1.0
    wide, other = widened(exact).baked(), widened(kept).baked()
    rest = _difference(wide, other)
    if not rest.B.any():
        return 1.0
    total, bound = _squares(*_grams(wide))
    lost, rest_bound = _squares(*_grams(rest))
    if total <= _CANCELLED * max(bound, rest_bound):
        total, lost = (each.frobenius_norm() ** 2 for each in (wide, rest))
        if total <= (max(*wide.shape, wide.rank) * _ROUNDOFF) ** 2 * bound:
            return 1.0
    return max(0.0, 1.0 - max(0.0, lost) / total)


def widened(update: LowRank) -> LowRank:
    """The same factors in numpy and float64."""
    return LowRank(_wide(update.A), _wide(update.B), update.scale)


def _difference(a: LowRank, b: LowRank) -> LowRank:
    if np.array_equal(a.A, b.A):
        return LowRank(a.A, a.B - b.B)
    return concat([a, b], [1.0, -1.0])


def _grams(update: LowRank) -> tuple[_Wide, _Wide]:
    a, b = _wide(update.A), _wide(update.B)
    with np.errstate(over="ignore", invalid="ignore"):
        gram_a, gram_b = a @ a.T, b.T @ b
        size_a, size_b = np.sqrt(np.diagonal(gram_a)), np.sqrt(np.diagonal(gram_b))
        # Of a term with a zero on one side nothing is left on the other.
        stretch = np.sqrt(size_b) * _inverse(np.sqrt(size_a))
        shrink = np.sqrt(size_a) * _inverse(np.sqrt(size_b))
        return gram_a * np.outer(stretch, stretch), gram_b * np.outer(shrink, shrink)


def _squared_values(gram_a: _Wide, gram_b: _Wide) -> _Wide:
    """Squares of the singular values of the product, in ascending order."""
    # Lifted by what rounding hides, so that dependent rows of A do no harm.
    rank = len(gram_a)
    root = np.linalg.cholesky(gram_a + rank * _ROUNDOFF * np.trace(gram_a) * np.eye(rank))
    return np.asarray(np.linalg.eigvalsh(root.T @ gram_b @ root), np.float64)


def _inverse(values: _Wide) -> _Wide:
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0.0)


def _squares(gram_a: _Wide, gram_b: _Wide) -> tuple[float, float]:
    """Squared norm of the product, and the square of the sum of the norms of its terms."""
    with np.errstate(over="ignore", invalid="ignore"):
        square, bound = np.vdot(gram_a, gram_b), np.trace(gram_a) * np.trace(gram_b)
    if not math.isfinite(bound):
        raise NumericalError("the product of two finite factors overflows", where="update")
    return float(square), float(bound)


def _wide(factor: Any) -> _Wide:
    # In one step, as numpy widens half precision to float64 faster than to float32.
    is_numpy = isinstance(factor, np.ndarray)
    return factor.astype(np.float64, copy=False) if is_numpy else to_numpy(factor)
