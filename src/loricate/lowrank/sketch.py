"""Randomized singular value decomposition with a certificate of its error."""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.basics.arrays import Array, from_numpy, namespace, to_numpy, tolerance
from loricate.lowrank.factors import LowRank
from loricate.lowrank.rules import EnergyRank, FixedRank, RankRule
from loricate.lowrank.svd import SVD, full_svd, require_matrix

__all__ = ["Certificate", "Sketch", "certified_svd", "randomized_svd"]

# Probes behind the spectral bound: it fails with probability 2 ** -20.
_PROBES = 20


@final
@dataclass(frozen=True)
class Certificate:
    """What is known about a rank-``rank`` approximation of one matrix.

    Args:
        rank: Rank of the approximation.
        norm: Frobenius norm of the matrix.
        error: Upper bound of the Frobenius error, measured on the residual; always valid.
        optimal: Lower bound of the error of any approximation of this rank; valid with
            probability 1 - 2**-20 over the seed unless ``exact``.
        exact: Whether a full decomposition stands behind both numbers.
    """

    rank: int
    norm: float
    error: float
    optimal: float
    exact: bool

    @property
    def relative_error(self) -> float:
        """Upper bound of the error, as a share of the norm of the matrix."""
        return self.error / self.norm if self.norm else 0.0

    @property
    def excess(self) -> float:
        """Upper bound of the avoidable part of the error, as a share of the norm."""
        return (self.error - self.optimal) / self.norm if self.norm else 0.0


def certified_svd(
    weight: Float[Array, "d_out d_in"],
    rule: RankRule,
    *,
    max_excess: float = 0.01,
    seed: int = 0,
) -> tuple[LowRank, Certificate]:
    """Low-rank approximation with a proof of its error, by sketching where that suffices.

    Falls back to the exact decomposition when the sketch cannot prove the rule met and the
    avoidable error below ``max_excess``, or when it would not be cheaper.

    Args:
        weight: Dense matrix.
        rule: ``FixedRank`` and ``EnergyRank`` are sketched; other rules look at the whole
            spectrum and are always exact.
        max_excess: Largest avoidable error allowed, as a share of the norm of ``weight``.
        seed: Seed of the sketch.

    Returns:
        Factors with ``scale == 1``, in the dtype of ``weight``, and their certificate, which
        covers the factors before that last rounding.

    Raises:
        ShapeError: ``weight`` is not a matrix.
        NumericalError: ``weight`` holds NaN or infinity.
    """
    width = _first_width(rule)
    while width and 4 * width <= min(weight.shape):
        sketch = randomized_svd(weight, width, seed=seed)
        rank = sketch.rank(rule)
        if rank <= width and (certificate := sketch.certificate(rank)).excess <= max_excess:
            return sketch.svd.factors(rank).cast(weight), certificate
        width *= 2
    svd = full_svd(weight)
    rank = rule.rank(svd.s, svd.shape)
    return svd.factors(rank).cast(weight), _exact_certificate(svd, rank)


@final
@dataclass(frozen=True, eq=False)
class Sketch:
    """Decomposition of a matrix inside a random subspace, and what lies outside.

    Args:
        svd: Exact decomposition of the part inside.
        residual: Frobenius norm of the part outside.
        spectral: Upper bound of the spectral norm of the part outside, with probability
            1 - 2**-20.
        leak: Frobenius norm of the part outside along the right singular vectors of ``svd``;
            power iterations drive it to 0.
    """

    svd: SVD
    residual: float
    spectral: float
    leak: float

    def rank(self, rule: RankRule) -> int:
        """Rank the rule picks, or one more than the sketch holds if it cannot tell."""
        xp = namespace(self.svd.s)
        # The residual stands in for all unseen values: right for sums of squares.
        outside = xp.zeros_like(self.svd.s[:1]) + self.residual
        return rule.rank(xp.concat([self.svd.s, outside]), self.svd.shape)

    def certificate(self, rank: int) -> Certificate:
        """What is known about the first ``rank`` components as an approximation.

        Source: Pythagoras for the error; eigenvalue bounds of Weyl and of Li & Li 2005 [li2005],
        theorem 2, for the best error possible.
        """
        s = to_numpy(self.svd.s)
        tail = math.hypot(self.residual, float(np.linalg.norm(s[rank:])))
        avoidable = min(self.residual**2, rank * self.spectral**2, rank * self._shift(rank, s))
        slack = tolerance(self.svd.s, self.svd.shape)
        return Certificate(
            rank=rank,
            norm=math.hypot(self.residual, float(np.linalg.norm(s))),
            error=tail + slack,
            optimal=max(0.0, math.sqrt(max(0.0, tail**2 - avoidable)) - slack),
            exact=False,
        )

    def _shift(self, rank: int, s: NDArray[np.float64]) -> float:
        # Most by which one of the leading squared singular values may exceed its estimate.
        gap = float(s[rank - 1]) ** 2 - self.spectral**2 if rank else 0.0
        if gap <= 0.0:
            return math.inf
        coupling = (self.leak * self.spectral) ** 2
        return self.leak**2 + 2.0 * coupling / (gap + math.sqrt(gap**2 + 4.0 * coupling))


def randomized_svd(
    weight: Float[Array, "d_out d_in"],
    width: int,
    *,
    power_iterations: int = 2,
    seed: int = 0,
) -> Sketch:
    """Leading singular triplets by a seeded random sketch, with what the sketch missed.

    Numpy and torch see the same random numbers, whatever the device.

    Args:
        weight: Dense matrix.
        width: Number of triplets; some 8 more than wanted make the leading ones accurate.
        power_iterations: Passes that sharpen the subspace.
        seed: Seed of the sketch.

    Raises:
        ShapeError: ``weight`` is not a matrix.
        NumericalError: ``weight`` holds NaN or infinity.

    Source: Halko, Martinsson & Tropp 2011 [halko2011], algorithms 4.4 and 5.1.
    """
    matrix = require_matrix(weight)
    xp = namespace(matrix)
    rng = np.random.default_rng(seed)
    q, _ = xp.linalg.qr(matrix @ _normal(rng, (matrix.shape[1], width), matrix))
    for _ in range(power_iterations):
        q, _ = xp.linalg.qr(matrix.T @ q)
        q, _ = xp.linalg.qr(matrix @ q)
    u, s, vh = xp.linalg.svd(q.T @ matrix, full_matrices=False)
    outside = matrix - q @ (q.T @ matrix)
    return Sketch(
        svd=SVD(q @ u, s, vh),
        residual=_norm(outside),
        spectral=_spectral_bound(outside, rng),
        leak=_norm(outside @ vh.T),
    )


def _spectral_bound(matrix: Float[Array, "d_out d_in"], rng: np.random.Generator) -> float:
    """Upper bound of the spectral norm, wrong with probability 2**-20.

    Source: Halko et al. 2011 [halko2011], lemma 4.1 with factor 2, on (M Mt)^2 M, whose norm is
    the fifth power; the root shrinks the factor.
    """
    norm = _norm(matrix)
    if norm == 0.0:
        return 0.0
    scaled = matrix / norm
    probes = scaled @ _normal(rng, (matrix.shape[1], _PROBES), matrix)
    for _ in range(2):
        probes = scaled @ (scaled.T @ probes)
    xp = namespace(probes)
    longest = float(xp.max(xp.linalg.vector_norm(probes, axis=0)))
    return norm * min(1.0, math.pow(2.0 * math.sqrt(2.0 / math.pi) * longest, 0.2))


def _exact_certificate(svd: SVD, rank: int) -> Certificate:
    s = to_numpy(svd.s)
    tail, slack = float(np.linalg.norm(s[rank:])), tolerance(svd.s, svd.shape)
    norm = float(np.linalg.norm(s))
    return Certificate(rank, norm, tail + slack, max(0.0, tail - slack), exact=True)


def _first_width(rule: RankRule) -> int | None:
    match rule:
        case FixedRank(k):
            return k + max(8, k // 2)
        case EnergyRank(p) if p < 1.0:
            return 32
    return None


def _normal(rng: np.random.Generator, shape: tuple[int, int], like: Array) -> Array:
    return from_numpy(rng.standard_normal(shape), like)


def _norm(matrix: Array) -> float:
    return float(namespace(matrix).linalg.vector_norm(matrix))
