"""Randomized singular value decomposition with a certificate of its error."""

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.basics.arrays import (
    Array,
    from_numpy,
    namespace,
    to_numpy,
    tolerance,
    unit_roundoff,
    upcast,
)
from loricate.basics.errors import NumericalError
from loricate.lowrank._thin import cholesky_basis
from loricate.lowrank.factors import LowRank
from loricate.lowrank.rules import EnergyRank, FixedRank, RankRule
from loricate.lowrank.svd import SVD, full_svd, require_matrix

__all__ = ["Certificate", "Sketch", "certified_svd", "randomized_svd"]

# Probes behind the spectral bound: it fails with probability _FACTOR ** -_PROBES == 2 ** -20.
_PROBES = 16
_FACTOR = 2.0 ** (20 / _PROBES)
# Matrices with a largest entry beyond 2 to this power are scaled first.
_MODERATE = 20
_MIXES = (0.01, 0.1, 0.3, 1.0, 10.0)


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
    max_excess: float = 0.02,
    seed: int = 0,
) -> tuple[LowRank, Certificate]:
    """Low-rank approximation with a proof of its error, by sketching where that suffices.

    Sharpens and widens the sketch until it proves the rule met and the avoidable error below
    ``max_excess``; falls back to the exact decomposition where that would be cheaper.

    Args:
        weight: Dense matrix.
        rule: ``FixedRank`` and ``EnergyRank`` are sketched; other rules look at the whole
            spectrum and are always exact.
        max_excess: Largest avoidable error allowed, as a share of the norm of ``weight``.
        seed: Seed of the sketch.

    Returns:
        Factors with ``scale == 1`` and ``A @ A.T == B.T @ B``, in the dtype of ``weight``, and
        their certificate, which covers the factors before that last rounding.

    Raises:
        ShapeError: ``weight`` is not a matrix.
        NumericalError: ``weight`` holds NaN or infinity, or its norm overflows.
    """
    width, power = _first_width(rule), 1
    while width and 4 * width <= min(weight.shape):
        sketch = randomized_svd(weight, width, power_iterations=power, seed=seed)
        rank = sketch.rank(rule)
        if rank <= width and (certificate := sketch.certificate(rank)).excess <= max_excess:
            return sketch.svd.balanced(rank).cast(weight), certificate
        is_dull = rank <= width and power < 4
        width, power = (width, 4) if is_dull else (2 * width, power)
    svd = full_svd(weight)
    rank = rule.rank(svd.s, svd.shape)
    return svd.balanced(rank).cast(weight), _exact_certificate(svd, rank)


@final
@dataclass(frozen=True, eq=False)
class Sketch:
    """Decomposition of a matrix inside a random subspace, and what lies outside.

    Args:
        svd: Exact decomposition of the part inside.
        residual: Frobenius norm of the part outside.
        slack: What rounding may hide in ``residual``.
        spectral: Upper bound of the spectral norm of the part outside, with probability
            1 - 2**-20.
        ceilings: Entry k is an upper bound of the norm of the k largest singular values of the
            matrix, whenever ``spectral`` is a bound.
    """

    svd: SVD
    residual: float
    slack: float
    spectral: float
    ceilings: NDArray[np.float64]

    def rank(self, rule: RankRule) -> int:
        """Rank the rule picks, or one more than the sketch holds if it cannot tell."""
        xp = namespace(self.svd.s)
        # The residual stands in for all unseen values: right for sums of squares.
        outside = xp.zeros_like(self.svd.s[:1]) + self.residual
        return rule.rank(xp.concat([self.svd.s, outside]), self.svd.shape)

    def certificate(self, rank: int) -> Certificate:
        """What is known about the first ``rank`` components as an approximation."""
        s = to_numpy(self.svd.s)
        unit = _power_of_two(max(self.residual, float(s[0])))
        s, residual, slack = s / unit, self.residual / unit, self.slack / unit
        tail = math.hypot(residual, float(np.linalg.norm(s[rank:])))
        norm = math.hypot(residual, float(np.linalg.norm(s)))
        missed = max(0.0, float((self.ceilings[rank] / unit) ** 2 - np.sum(s[:rank] ** 2)))
        hidden = 2.0 * slack * tail + _rounding_of_squares(self.svd.s, self.svd.shape, norm)
        return Certificate(
            rank=rank,
            norm=unit * norm,
            error=unit * (tail + slack),
            optimal=unit * math.sqrt(max(0.0, tail**2 - missed - hidden)),
            exact=False,
        )


def randomized_svd(
    weight: Float[Array, "d_out d_in"],
    width: int,
    *,
    power_iterations: int = 2,
    seed: int = 0,
) -> Sketch:
    """Leading singular triplets by a seeded random sketch, with what the sketch missed.

    Numpy and torch see the same random numbers, whatever the device. The probes behind the
    certificate ride along in the products with the sketch and cost no pass of their own.

    Args:
        weight: Dense matrix.
        width: Number of triplets; some 8 more than wanted make the leading ones accurate.
        power_iterations: Pairs of passes that sharpen the subspace.
        seed: Seed of the sketch.

    Raises:
        ShapeError: ``weight`` is not a matrix.
        NumericalError: ``weight`` holds NaN or infinity, or its norm overflows.

    Source: Halko, Martinsson & Tropp 2011 [halko2011], algorithms 4.4 and 5.1. Deviates: the pass
    that the certificate needs sharpens the result by half an iteration more.
    """
    matrix, unit, norm = _moderate(weight)
    xp = namespace(matrix)
    draws = _normal(seed, (matrix.shape[1], width + _PROBES), matrix)
    left, probes = _product(matrix, draws[:, :width], _Probes(draws[:, width:]))
    for _ in range(power_iterations - 2):
        left = matrix @ _basis(matrix.T @ _basis(left))
    # Two rounds at most: higher powers of the whole matrix drown the rest in rounding.
    for _ in range(min(2, power_iterations)):
        right, probes = _product(matrix.T, _basis(left), probes)
        left, probes = _product(matrix, _basis(right), probes)
    q = _basis(left)
    for _ in range(power_iterations // 2 - 1):
        probes = probes.outside(q).times(matrix.T).times(matrix)
    right, probes = _product(matrix.T, q, probes.outside(q))
    basis, core = _qr(right)
    left, probes = _product(matrix, basis, probes)
    spectral = probes.outside(q).spectral_bound()
    ceilings = _ceilings(to_numpy(core), to_numpy(left - q @ core.T), spectral)
    left, core = _qr(left)
    u, s, vh = xp.linalg.svd(core, full_matrices=False)
    svd = SVD(left @ u, s, vh @ basis.T)
    residual, slack = _residual(matrix, svd, norm)
    if unit * math.hypot(residual, float(s[0])) > float(xp.finfo(s.dtype).max):
        raise NumericalError("the norm overflows", where="weight")
    real = replace(svd, s=unit * s)
    return Sketch(real, unit * residual, unit * slack, unit * spectral, unit * ceilings)


@dataclass(frozen=True, eq=False)
class _Probes:
    """Random vectors, multiplied with the matrix and its transpose in turn, ``degree`` times.

    ``log_size`` is the logarithm of a factor that was taken out against overflow.
    """

    columns: Float[Array, "d probes"]
    degree: int = 0
    log_size: float = 0.0

    def outside(self, q: Float[Array, "d width"]) -> "_Probes":
        return replace(self, columns=self.columns - q @ (q.T @ self.columns))

    def times(self, matrix: Float[Array, "m d"]) -> "_Probes":
        return _product(matrix, self.columns[:, :0], self)[1]

    def spectral_bound(self) -> float:
        """Upper bound of the spectral norm outside ``q``, wrong with probability 2**-20.

        Source: Halko et al. 2011 [halko2011], lemma 4.1, and proposition 8.6: with
        the projector P away from ``q``, the norm of P M is at most the root of order 2 (s + t) + 1
        of the norm of (P M Mt)^s P (M Mt)^t M.
        """
        xp = namespace(self.columns)
        longest = float(xp.max(xp.linalg.vector_norm(self.columns, axis=0)))
        if longest == 0.0:
            return 0.0
        log_norm = math.log(_FACTOR * math.sqrt(2.0 / math.pi) * longest) + self.log_size
        return math.exp(log_norm / self.degree)


def _product(
    matrix: Float[Array, "m n"], basis: Float[Array, "n width"], probes: _Probes
) -> tuple[Float[Array, "m width"], _Probes]:
    """Matrix times basis and probes, in one pass over the matrix."""
    xp = namespace(matrix)
    size = _norm(probes.columns) or 1.0
    # A small matrix from the left makes the better use of one that is stored by rows.
    product = (xp.concat([basis, probes.columns / size], axis=1).T @ matrix.T).T
    width = basis.shape[1]
    advanced = _Probes(product[:, width:], probes.degree + 1, probes.log_size + math.log(size))
    return product[:, :width], advanced


def _ceilings(
    core: NDArray[np.float64], coupling: NDArray[np.float64], spectral: float
) -> NDArray[np.float64]:
    """Upper bounds of the norms of leading singular values of a matrix.

    Split the matrix into Q C and the rest E. Where the columns of V span the rows of C, its Gram
    matrix is at most blockdiag(C Ct + (1 + 1/x) (E V)t (E V), (1 + x) |E|^2) for every x > 0.

    Args:
        core: Triangular factor of Ct.
        coupling: E V.
        spectral: Bound of the spectral norm of E.
    """
    inside, mixed = core @ core.T, coupling.T @ coupling
    mixes = np.asarray(_MIXES)[:, None]
    split = inside + (1.0 + 1.0 / mixes[..., None]) * mixed
    squares = np.maximum(np.linalg.eigvalsh(split)[:, ::-1], (1.0 + mixes) * spectral**2)
    best = np.min(np.cumsum(squares, axis=1), axis=0)
    return np.asarray(np.sqrt([0.0, *best]))


def _residual(matrix: Float[Array, "d_out d_in"], svd: SVD, norm: float) -> tuple[float, float]:
    """Frobenius norm of what a decomposition leaves, and what rounding may hide in it."""
    square = norm**2 - float(np.sum(to_numpy(svd.s) ** 2))
    rounding = _rounding_of_squares(svd.s, svd.shape, norm)
    # Pythagoras saves a pass, but would lose a small residual in the rounding of large sums.
    if square > 100.0 * rounding:
        return math.sqrt(square), rounding / (2.0 * math.sqrt(square))
    width = len(svd.s)
    hidden = (width + 2) * math.sqrt(width) * unit_roundoff(svd.s) * norm
    return _norm(matrix - (svd.U * svd.s) @ svd.Vh), hidden


def _rounding_of_squares(s: Float[Array, " k"], shape: tuple[int, int], norm: float) -> float:
    # Roundings of a long sum mostly cancel: Higham & Mary 2019 [higham2019].
    return 16.0 * unit_roundoff(s) * math.sqrt(max(shape)) * norm**2


def _exact_certificate(svd: SVD, rank: int) -> Certificate:
    unit = _power_of_two(float(max(svd.s, default=0.0)))
    s = to_numpy(svd.s) / unit
    tail, slack = float(np.linalg.norm(s[rank:])), tolerance(s, svd.shape, dtype=svd.s)
    return Certificate(
        rank=rank,
        norm=unit * float(np.linalg.norm(s)),
        error=unit * (tail + slack),
        optimal=unit * max(0.0, tail - slack),
        exact=True,
    )


def _first_width(rule: RankRule) -> int | None:
    match rule:
        case FixedRank(k):
            return k + max(8, min(k, 16), k // 2)
        case EnergyRank(p) if p < 1.0:
            return 32
    return None


def _normal(seed: int, shape: tuple[int, int], like: Array) -> Array:
    return from_numpy(np.random.default_rng(seed).standard_normal(shape), like)


def _basis(matrix: Float[Array, "d k"]) -> Float[Array, "d k"]:
    return _qr(matrix)[0]


def _qr(matrix: Float[Array, "d k"]) -> tuple[Float[Array, "d k"], Float[Array, "k k"]]:
    """Orthonormal basis of the columns, and their coordinates in it."""
    xp = namespace(matrix)
    found = cholesky_basis(matrix)
    if found is None:
        q, r = xp.linalg.qr(matrix)
        return q, r
    q = found.rotated(np.eye(matrix.shape[1]))
    return q.astype(matrix.dtype, copy=False), found.r.astype(matrix.dtype)


def _moderate(weight: Float[Array, "m n"]) -> tuple[Float[Array, "m n"], float, float]:
    """The weight in float32 or wider, over a power of two where squares would leave the range.

    Returns:
        The matrix, the power, and the norm of the matrix.
    """
    matrix = upcast(weight)
    norm = _frobenius(matrix) if matrix.ndim == 2 else math.nan
    least, most = 2.0**-_MODERATE * math.sqrt(math.prod(matrix.shape)), 2.0**_MODERATE
    # Which spares most matrices three looks at every entry.
    if least <= norm <= most:
        return matrix, 1.0, norm
    matrix = require_matrix(weight)
    xp = namespace(matrix)
    size = max(float(xp.max(matrix)), -float(xp.min(matrix)))
    if size == 0.0 or 2.0**-_MODERATE <= size <= 2.0**_MODERATE:
        return matrix, 1.0, norm
    # Neither the power nor its inverse may be denormal, which some devices take for 0.
    smallest = 2.0 * float(xp.finfo(matrix.dtype).smallest_normal)
    unit = min(max(_power_of_two(size), smallest), 1.0 / smallest)
    matrix = matrix * (1.0 / unit)
    return matrix, unit, _frobenius(matrix)


def _frobenius(matrix: Float[Array, "m n"]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        squares = namespace(matrix).linalg.vecdot(matrix, matrix)
    return math.sqrt(float(np.sum(to_numpy(squares))))


def _power_of_two(size: float) -> float:
    """The largest power of two that is not above a size; 1 for 0."""
    return math.ldexp(1.0, math.frexp(size)[1] - 1) if size else 1.0


def _norm(matrix: Array) -> float:
    return float(namespace(matrix).linalg.vector_norm(matrix))
