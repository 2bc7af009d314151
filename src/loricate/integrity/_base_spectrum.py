"""Updates against the weights they are added to."""

import math
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.basics.arrays import Array, tolerance
from loricate.lowrank.factors import LowRank
from loricate.lowrank.sketch import randomized_svd
from loricate.lowrank.svd import SVD, full_svd

__all__ = [
    "BaseWeights",
    "Comparison",
    "as_matrix",
    "compared",
    "frobenius_norm",
    "mean_singular_value",
    "spectral_norm",
]

# Up to this many rows or columns a full decomposition takes less than 0.1 s.
_SMALL = 384
# Leading vectors of a larger weight that others are compared with.
_WIDTH = 64
_LEADING = 10
# Entries that are widened at a time, so that they fit into the cache.
_CHUNK = 1 << 18


class BaseWeights(Protocol):
    """What is needed of a base."""

    def weight(self, component: str, module: str) -> Array | None:
        """Weight of a module, or ``None`` where there is no such module."""
        ...


class Comparison(NamedTuple):
    """An update against its weight.

    Args:
        relative_spectral: Largest singular value over that of the weight.
        n_intruders: How many of the 10 leading left singular vectors of the sum resemble none of
            the weight.
        overlap: Share of the energy of the update within the span of the 10 leading left singular
            vectors of the weight.
    """

    relative_spectral: float
    n_intruders: int
    overlap: float


def as_matrix(weight: Array) -> Float[np.ndarray, "d_out d_in"]:
    """A weight in float32, kernels flattened behind their first axis."""
    matrix: NDArray[np.float32] = np.asarray(weight).reshape(len(weight), -1).astype(np.float32)
    return matrix


def frobenius_norm(weight: Array) -> float:
    """Root of the sum of squared entries of a weight of any shape and dtype."""
    flat = np.asarray(weight).reshape(-1)
    pieces = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
    wide = (piece.astype(np.float32, copy=False) for piece in pieces)
    return math.sqrt(sum(float(piece @ piece) for piece in wide))


def mean_singular_value(weight: Array) -> float:
    """Root mean square of the singular values, estimated from at most 64 rows."""
    rows = np.asarray(weight).reshape(len(weight), -1)
    sample = rows[:: -(-len(rows) // 64)]
    square = frobenius_norm(sample) ** 2 * len(rows) / len(sample)
    return math.sqrt(square / min(rows.shape))


def spectral_norm(weight: Float[np.ndarray, "d_out d_in"]) -> float:
    """Largest singular value; of a large weight as a sketch sees it, a little below."""
    return float(_leading(weight, 4).s[0])


def compared(
    update: LowRank,
    spectral: float,
    weight: Float[np.ndarray, "d_out d_in"],
    *,
    threshold: float = 0.5,
) -> Comparison:
    """Compare an update with the weight it is added to.

    Exact up to a shorter side of 384. Beyond, leading vectors come from sketches, and those of the
    sum are compared with the 64 leading ones of the weight: one that equals a later one counts as
    an intruder as well.

    Args:
        update: Factors that fit the weight.
        spectral: Largest singular value of the update.
        weight: Finite matrix in float32.
        threshold: Absolute cosine from which on two vectors resemble each other.

    Source: Shuttleworth et al. 2024 [shuttleworth2024], section 3.
    """
    before = _leading(weight, _WIDTH)
    after = _leading(weight + _dense(update), _LEADING + 8)
    # What rounding left of a lower rank has no direction of its own.
    n_leading = min(_LEADING, int(np.sum(after.s > tolerance(after.s, weight.shape))))
    cosines = np.abs(before.U.T @ after.U[:, :n_leading])
    largest = float(before.s[0]) if len(before.s) else 0.0
    return Comparison(
        relative_spectral=spectral / largest if largest else np.inf if spectral else 0.0,
        n_intruders=int(np.sum(cosines.max(axis=0, initial=0.0) < threshold)),
        overlap=_overlap(update, before.U[:, :_LEADING]),
    )


def _leading(matrix: Float[np.ndarray, "d_out d_in"], width: int) -> SVD:
    if min(matrix.shape) <= max(_SMALL, 4 * width):
        return full_svd(matrix)
    return randomized_svd(matrix, width, power_iterations=1).svd


def _dense(update: LowRank) -> Float[np.ndarray, "d_out d_in"]:
    a, b = (np.asarray(factor, np.float32) for factor in (update.A, update.B))
    return np.asarray(b @ a * update.scale, np.float32)


def _overlap(update: LowRank, U: Float[np.ndarray, "d_out k"]) -> float:
    a, b = (np.asarray(factor, np.float64) for factor in (update.A, update.B))
    gram = a @ a.T
    total = float(np.vdot(b.T @ b, gram))
    inside = U.T @ b
    return float(np.vdot(inside.T @ inside, gram)) / total if total > 0.0 else 0.0
