"""What a spectrum says: sizes of ranks, and how subspaces lie to each other."""

import math
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from loricate.basics.arrays import Array, namespace, to_numpy, tolerance
from loricate.basics.errors import ShapeError
from loricate.lowrank.svd import full_svd, require_matrix

__all__ = [
    "effective_rank",
    "intruder_dimensions",
    "principal_angles",
    "singular_values",
    "stable_rank",
]

Shape: TypeAlias = tuple[int, int]


def singular_values(weight: Float[Array, "d_out d_in"]) -> Float[Array, " k"]:
    """All ``min(d_out, d_in)`` singular values in descending order, in float32 or wider.

    Raises:
        ShapeError: ``weight`` is not a matrix.
        NumericalError: ``weight`` holds NaN or infinity.
    """
    matrix = require_matrix(weight)
    return namespace(matrix).linalg.svdvals(matrix)


def effective_rank(s: Float[Array, " k"]) -> float:
    """Exponential of the entropy of the normalized singular values; 0 for the zero matrix.

    Lies between 1, for rank 1, and the rank, for equal singular values.

    Source: Roy & Vetterli 2007 [roy2007], definition 1.
    """
    values = to_numpy(s)
    positive = values[values > 0.0]
    if positive.size == 0:
        return 0.0
    p = positive / positive.sum()
    return math.exp(-float(np.sum(p * np.log(p))))


def stable_rank(s: Float[Array, " k"]) -> float:
    """Squared Frobenius norm over squared spectral norm; 0 for the zero matrix.

    Source: Rudelson & Vershynin 2007 [rudelson2007], section 1.
    """
    values = to_numpy(s)
    largest = float(values.max(initial=0.0))
    return float(np.sum((values / largest) ** 2)) if largest else 0.0


def principal_angles(x: Float[Array, "d k"], y: Float[Array, "d l"]) -> Float[Array, " m"]:
    """Angles in radians between two column spaces, in ascending order, ``m = min(k, l)``.

    Small angles come from their sine and large ones from their cosine, since the arc cosine near 1
    loses half the digits.

    Args:
        x: Linearly independent columns.
        y: Linearly independent columns of the same length.

    Raises:
        ShapeError: The columns differ in length.
        NumericalError: An input holds NaN or infinity.

    Source: Björck & Golub 1973 [bjorck1973], section 3.
    """
    if x.shape[0] != y.shape[0]:
        raise ShapeError("columns of one length", (tuple(x.shape), tuple(y.shape)))
    xp = namespace(x, y)
    narrow, wide = sorted((x, y), key=lambda columns: int(columns.shape[1]))
    q_n, _ = xp.linalg.qr(require_matrix(narrow))
    q_w, _ = xp.linalg.qr(require_matrix(wide))
    overlap = q_w.T @ q_n
    cosines = xp.clip(xp.linalg.svdvals(overlap), 0.0, 1.0)
    # The sines ascend with the angles, singular values descend.
    sines = xp.flip(xp.clip(xp.linalg.svdvals(q_n - q_w @ overlap), 0.0, 1.0))
    return xp.where(cosines > 0.5**0.5, xp.asin(sines), xp.acos(cosines))


def intruder_dimensions(
    base: Float[Array, "d_out d_in"],
    tuned: Float[Array, "d_out d_in"],
    *,
    k: int = 10,
    threshold: float = 0.6,
) -> int:
    """How many leading left singular vectors of a tuned weight resemble none of its base.

    Args:
        base: Weight before tuning.
        tuned: Weight after tuning.
        k: Number of leading vectors looked at.
        threshold: A vector resembles another if the absolute cosine reaches this.

    Raises:
        ShapeError: A weight is not a matrix, or the shapes differ.
        NumericalError: A weight holds NaN or infinity.

    Source: Shuttleworth et al. 2024 [shuttleworth2024], section 3.
    """
    if tuple(base.shape) != tuple(tuned.shape):
        raise ShapeError(f"a tuned weight of shape {tuple(base.shape)}", tuple(tuned.shape))
    before, after = full_svd(base), full_svd(tuned)
    leading = min(k, int(np.sum(to_numpy(after.s) > tolerance(after.s, after.shape))))
    cosines = np.abs(to_numpy(before.U).T @ to_numpy(after.U[:, :leading]))
    return int(np.sum(cosines.max(axis=0, initial=0.0) < threshold))
