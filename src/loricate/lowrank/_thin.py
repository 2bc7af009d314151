"""Orthonormal bases of thin factors."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from loricate.basics.arrays import Array, namespace, unit_roundoff, upcast
from loricate.lowrank.factors import LowRank

__all__ = ["Basis", "basis_of", "cholesky_basis", "gram_of", "rounding"]

# Up to this condition number a Gram matrix in float64 knows a factor in float32 to its last digit:
# what is lost is the square of it times 1e-16.
_CONDITION = 1e3
# Up to this one, in units of its least value, and for no columns shorter than this, products with
# the inverse lose nothing in float32.
_MILD, _SHORT = 4.0, 1e-30


class Basis(NamedTuple):
    """Factors ``columns @ coordinates @ r`` of a matrix, of which the first two are orthonormal.

    Args:
        columns: Tall matrix, in the dtype that products with it need.
        coordinates: Square; kept apart, as to multiply it by other small matrices first is cheap.
        r: Square and upper triangular.
    """

    columns: Float[Array, "d k"]
    coordinates: Float[Array, "k k"]
    r: Float[Array, "k k"]

    def rotated(self, matrix: Float[Array, "k l"]) -> Float[Array, "d l"]:
        """The columns of a small matrix in this basis."""
        xp = namespace(matrix)
        wide = xp.result_type(self.coordinates, matrix)
        coordinates, small = (xp.astype(x, wide, copy=False) for x in (self.coordinates, matrix))
        return self.columns @ xp.astype(coordinates @ small, self.columns.dtype, copy=False)


def basis_of(factor: Float[Array, "d k"]) -> Basis:
    """Basis of the columns of a thin matrix.

    In numpy and float32 it comes from the Cholesky factor of the Gram matrix: five times as fast as
    numpy's QR decomposition, which ill-conditioned matrices take, and arrays of other libraries and
    dtypes.

    Args:
        factor: Matrix in float32 or wider.

    Source: Golub & Van Loan 2013 [golub2013], sections 5.2 and 5.3.
    """
    basis = cholesky_basis(factor)
    if basis is not None:
        return basis
    xp = namespace(factor)
    q, r = xp.linalg.qr(factor)
    return Basis(q, xp.eye(q.shape[1], dtype=q.dtype, device=q.device), r)


def cholesky_basis(factor: Float[Array, "d k"]) -> Basis | None:
    """Basis from the Gram matrix, in float64 and of columns of equal length.

    Nothing for matrices that are ill-conditioned, not finite, empty or not in numpy and float32.

    Args:
        factor: Matrix in float32 or wider.
    """
    if not (isinstance(factor, np.ndarray) and factor.dtype == np.float32 and factor.size):
        return None
    gram = gram_of(factor)
    lengths = np.sqrt(np.diagonal(gram))
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            unit = np.linalg.cholesky(gram / lengths / lengths[:, None]).T
            inverse = np.linalg.inv(unit)
    except np.linalg.LinAlgError:
        return None
    condition = math.sqrt(np.vdot(unit, unit) * np.vdot(inverse, inverse))
    # Not true either if something is not finite.
    if not condition < _CONDITION:
        return None
    is_mild = condition < _MILD * len(unit) and lengths.min() > _SHORT
    columns = factor if is_mild else factor.astype(np.float64)
    return Basis(columns, inverse / lengths[:, None], unit * lengths)


def gram_of(factor: Float[np.ndarray, "d k"]) -> Float[np.ndarray, "k k"]:
    """Inner products of the columns of a matrix, in float64."""
    columns = factor.astype(np.float64)
    return columns.T @ columns


def rounding(update: LowRank, lengths: Float[Array, " r"]) -> float:
    """Singular values up to this size may be rounding of the factors and nothing else.

    Args:
        update: Factors.
        lengths: Norm of each term, which is a column of ``B`` times a row of ``A``.
    """
    # Term by term, not the norms of the whole factors: a gauge may scale one column of B up and
    # its row of A down without costing any digits.
    terms = float(namespace(lengths).sum(lengths))
    return max(*update.shape, update.rank) * unit_roundoff(upcast(update.B)) * terms
