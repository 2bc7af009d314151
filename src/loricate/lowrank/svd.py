"""Exact singular value decompositions: of a matrix, and of factors through a small core.

All compute in float32 or wider and return factors in the dtype of their input.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from loricate.basics.arrays import Array, namespace, require_finite, upcast
from loricate.basics.errors import NumericalError, ShapeError
from loricate.lowrank._gram_core import gram_core
from loricate.lowrank._thin import Basis, basis_of, rounding
from loricate.lowrank.factors import LowRank
from loricate.lowrank.rules import NumericalRank, RankRule

__all__ = [
    "SVD",
    "balanced",
    "factored_svd",
    "full_svd",
    "recompress",
    "require_matrix",
    "truncated_svd",
]


@final
@dataclass(frozen=True, eq=False)
class SVD:
    """The product ``U @ diag(s) @ Vh``, with orthonormal columns in ``U`` and rows in ``Vh``.

    Args:
        U: Left singular vectors, one a column.
        s: Singular values in descending order.
        Vh: Right singular vectors, one a row.
    """

    U: Float[Array, "d_out k"]
    s: Float[Array, " k"]
    Vh: Float[Array, "k d_in"]

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the decomposed matrix."""
        return int(self.U.shape[0]), int(self.Vh.shape[1])

    def factors(self, rank: int) -> LowRank:
        """Leading components; ``B`` carries the singular values."""
        return LowRank(self.Vh[:rank, :], self.U[:, :rank] * self.s[:rank])

    def balanced(self, rank: int) -> LowRank:
        """Leading components; both factors carry the root of the singular values."""
        root = namespace(self.s).sqrt(self.s[:rank])
        return LowRank(root[:, None] * self.Vh[:rank, :], self.U[:, :rank] * root)


def full_svd(weight: Float[Array, "d_out d_in"]) -> SVD:
    """All singular triplets of a matrix, in float32 or wider.

    Raises:
        ShapeError: ``weight`` is not a matrix.
        NumericalError: ``weight`` holds NaN or infinity, or its spectral norm overflows.
    """
    matrix = require_matrix(weight)
    with np.errstate(over="ignore"):
        svd = SVD(*namespace(matrix).linalg.svd(matrix, full_matrices=False))
    if not math.isfinite(float(max(svd.s, default=0.0))):
        raise NumericalError("the spectral norm overflows", where="weight")
    return svd


def factored_svd(update: LowRank) -> SVD:
    """All singular triplets of an update, without forming its product.

    The cost is that of two thin orthogonal decompositions; the result equals the SVD of
    ``dense()``. Singular values that rounding alone explains are 0, so that what cancels has
    rank 0.

    Raises:
        NumericalError: A factor holds NaN or infinity, or the scaled product overflows.

    Source: Golub & Van Loan 2013 [golub2013], section 5.2.
    """
    core = _core_of(update)
    return core.leading(len(core.s))


class _Core(NamedTuple):
    """Small SVD of the update in the bases of its factors, in at least their dtype."""

    left: Basis
    right: Basis
    u: Float[Array, "k m"]
    s: Float[Array, " m"]
    vh: Float[Array, "m l"]

    def leading(self, rank: int) -> SVD:
        """The first triplets of the update itself, in the dtype of its singular values."""
        U = self.left.rotated(self.u[:, :rank])
        V = self.right.rotated(self.vh[:rank, :].T)
        astype, dtype = namespace(self.s).astype, self.s.dtype
        return SVD(astype(U, dtype), self.s[:rank], astype(V, dtype).T)

    def factors(self, rank: int, share: float) -> LowRank:
        """Leading components, of which ``B`` carries ``s ** share`` and ``A`` the rest."""
        svd = self.leading(rank)
        return LowRank((svd.s ** (1.0 - share))[:, None] * svd.Vh, svd.U * svd.s**share)


def _core_of(update: LowRank) -> _Core:
    xp, dtype = namespace(update.B), upcast(update.B).dtype
    left, right = basis_of(upcast(update.B)), basis_of(upcast(update.A).T)
    # The two may come in different widths.
    wide = xp.result_type(left.r, right.r)
    r_b, r_a = xp.astype(left.r, wide, copy=False), xp.astype(right.r, wide, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        left_lengths, right_lengths = (xp.linalg.vector_norm(r, axis=0) for r in (r_b, r_a))
        floor = rounding(update, abs(update.scale) * left_lengths * right_lengths)
        core = update.scale * (r_b @ r_a.T)
        is_finite = math.isfinite(floor) and xp.all(xp.isfinite(xp.astype(core, dtype)))
    # What is not finite in a factor is not finite here either, and here is less to look at.
    if not is_finite:
        require_finite(update.A, where="A")
        require_finite(update.B, where="B")
        hint = "its scale or its factors are out of all proportion"
        raise NumericalError("the scaled product overflows", where="update", hint=hint)
    u, s, vh = xp.linalg.svd(core, full_matrices=False)
    return _Core(left, right, u, xp.astype(xp.where(s > floor, s, xp.zeros_like(s)), dtype), vh)


def truncated_svd(weight: Float[Array, "d_out d_in"], rule: RankRule) -> LowRank:
    """Best low-rank approximation of a weight, at the rank the rule picks.

    The squared Frobenius error is the sum of the squared singular values left out. Computed in
    float32 or wider, on the device of ``weight``; the factors come back in its dtype.

    Args:
        weight: Dense matrix. Convolution kernels go through ``conv.as_matrix`` first.
        rule: How the rank is chosen. ``EnergyRank(1.0)`` keeps the numerical rank.

    Returns:
        Factors with ``scale == 1``; ``B`` carries the singular values.

    Raises:
        ShapeError: ``weight`` is not a matrix.
        NumericalError: ``weight`` holds NaN or infinity.

    Source: Eckart & Young 1936 [eckart1936].
    """
    svd = full_svd(weight)
    return svd.factors(rule.rank(svd.s, svd.shape)).cast(weight)


def recompress(update: LowRank, rule: RankRule | None = None) -> LowRank:
    """Best approximation of an update at the rank the rule picks, from its factors alone.

    Args:
        update: Factors of any rank; stacked sums from ``merge.concat`` are the usual case.
        rule: How the rank is chosen; ``None`` keeps the numerical rank, so loses only rounding.

    Returns:
        Factors with ``scale == 1``; ``B`` carries the singular values.

    Raises:
        NumericalError: A factor holds NaN or infinity.
    """
    return _leading(update, rule or NumericalRank(), 1.0)


def balanced(update: LowRank, rule: RankRule | None = None) -> LowRank:
    """The same as ``recompress``, but with ``A @ A.T == B.T @ B``.

    Splitting the singular values evenly keeps both factors inside the range of half precision.

    Args:
        update: Factors of any rank.
        rule: How the rank is chosen; ``None`` keeps the numerical rank.

    Raises:
        NumericalError: A factor holds NaN or infinity.
    """
    return _leading(update, rule or NumericalRank(), 0.5)


def _leading(update: LowRank, rule: RankRule, share: float) -> LowRank:
    wide = replace(update, A=upcast(update.A), B=upcast(update.B))
    core = gram_core(wide) or _core_of(update)
    return core.factors(rule.rank(core.s, update.shape), share).cast(update.B)


def require_matrix(weight: Float[Array, "d_out d_in"]) -> Float[Array, "d_out d_in"]:
    """The weight in float32 or wider, if it is a finite matrix.

    Raises:
        ShapeError: ``weight`` is not a matrix.
        NumericalError: ``weight`` holds NaN or infinity.
    """
    if weight.ndim != 2:
        hint = "flatten kernels with conv.as_matrix" if weight.ndim == 4 else None
        raise ShapeError("a matrix (d_out, d_in)", tuple(weight.shape), hint=hint)
    return upcast(require_finite(weight, where="weight"))
