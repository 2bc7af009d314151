"""The singular values of a product through the Gram matrices of its factors.

With ``A = L @ Q.T``, of which the columns of ``Q`` are orthonormal, the eigenvalues of
``L.T @ B.T @ B @ L`` are the squares of the singular values of ``B @ A``, and its eigenvectors are
the right singular vectors in the basis ``Q``. That spares a basis and half of a small SVD, and the
squares of all that float32 can tell from rounding are still exact in float64.

Source: Golub & Van Loan 2013 [golub2013], section 8.6.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from loricate.lowrank._thin import Basis, cholesky_basis, gram_of, rounding
from loricate.lowrank.factors import LowRank

__all__ = ["GramCore", "gram_core"]

_LARGEST = float(np.finfo(np.float32).max)


class GramCore(NamedTuple):
    """Singular values and vectors of an update, by way of its right side.

    Args:
        B: Left factor.
        basis: Basis of the rows of the right factor.
        s: Singular values in descending order, 0 where rounding alone explains them.
        right: Right singular vectors in the basis, one a column.
        left: The same seen through ``B``: ``B @ left`` are the left ones times ``s``.
    """

    B: Float[np.ndarray, "d_out r"]
    basis: Basis
    s: Float[np.ndarray, " k"]
    right: Float[np.ndarray, "r k"]
    left: Float[np.ndarray, "r k"]

    def factors(self, rank: int, share: float) -> LowRank:
        """Leading components, of which ``B`` carries ``s ** share`` and ``A`` the rest.

        Args:
            rank: How many, none of which has the singular value 0.
            share: Between 0 and 1.
        """
        s = self.s[:rank].astype(np.float64)
        rows = self.basis.rotated(self.right[:, :rank] * s ** (1.0 - share)).T
        left = (self.left[:, :rank] * s ** (share - 1.0)).astype(np.float32)
        return LowRank(rows.astype(np.float32, copy=False), self.B @ left)


def gram_core(update: LowRank) -> GramCore | None:
    """Core of an update in numpy and float32.

    Nothing for other updates, for factors ``A`` of nearly dependent rows, and for numbers near the
    ends of the range or beyond.

    Args:
        update: Factors in one dtype, float32 or wider.
    """
    basis = cholesky_basis(update.A.T)
    if basis is None or not isinstance(update.B, np.ndarray) or update.B.dtype != np.float32:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        gram, through = gram_of(update.B), update.scale * basis.r.T
        square = through.T @ gram @ through
        lengths = np.sqrt(np.diagonal(gram) * np.vecdot(through, through))
    # Not true either if something is not finite.
    if not (np.vdot(square, square) < _LARGEST**4 and np.vdot(through, through) < _LARGEST**2):
        return None
    squares, vectors = np.linalg.eigh(square)
    right = vectors[:, ::-1][:, : min(update.shape)]
    s = np.sqrt(np.maximum(squares[::-1][: right.shape[1]], 0.0))
    s = np.where(s > rounding(update, lengths), s, 0.0).astype(np.float32)
    return GramCore(update.B, basis, s, right, through @ right)
