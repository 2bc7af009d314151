"""What the update of each module looks like, as numbers for rules and for detectors."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.integrity._base_spectrum import BaseWeights, as_matrix, compared
from loricate.lowrank.factors import LowRank
from loricate.lowrank.gram import singular_values
from loricate.lowrank.spectrum import effective_rank, stable_rank

__all__ = ["BASE_FEATURES", "SPECTRAL_FEATURES", "Features", "features"]

SPECTRAL_FEATURES = (
    "frobenius",
    "spectral",
    "energy_share",
    "entropy",
    "stable_rank",
    "numerical_rank",
    "rank",
    "kurtosis",
)
"""Columns that need the adapter alone."""

BASE_FEATURES = ("relative_frobenius", "relative_spectral", "intruders", "base_overlap")
"""Columns that need the base as well."""

# Singular values come through Gram matrices, which know them to 1e-7 of the largest.
_NEGLIGIBLE = 1e-6
_GRID = (64, 256)


@final
@dataclass(frozen=True, eq=False)
class Features:
    """One row for each update, one column for each feature.

    ``energy_share`` is the share of the largest singular value in the energy, ``entropy`` that of
    the singular values over its maximum (1 is a flat spectrum), ``kurtosis`` that of the entries
    of the update on a grid of at most 64 x 256 (3 is Gaussian). Kernels are flattened behind their
    first axis. An update that is zero has zeros, one without a weight in the base NaN.

    Args:
        targets: Module of each row.
        names: Name of each column.
        values: The table.
    """

    targets: tuple[Target, ...]
    names: tuple[str, ...]
    values: Float[np.ndarray, "n_modules k"]

    def column(self, name: str) -> Float[np.ndarray, " n_modules"]:
        """One feature of every module."""
        column: NDArray[np.float64] = self.values[:, self.names.index(name)]
        return column


def features(adapter: Adapter, base: BaseWeights | None = None) -> Features:
    """Spectral features of every update, from its factors alone or against its base as well.

    Args:
        adapter: Updates with finite factors.
        base: Weights they are added to.

    Returns:
        Columns ``SPECTRAL_FEATURES``, then ``BASE_FEATURES`` where a base is given.

    Raises:
        NumericalError: The product of two factors overflows.

    Source: The spectral ones are what arXiv 2602.15195 tells backdoored adapters by; intruders are
    those of Shuttleworth et al. 2024 [shuttleworth2024], section 3.
    """
    # More workers would only fight for the threads that products of matrices have anyway.
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(_row, adapter.values()))
    names: tuple[str, ...] = SPECTRAL_FEATURES
    if base is not None:
        names += BASE_FEATURES
        pairs = zip(rows, adapter.items(), strict=True)
        rows = [row + _against(row, target, update, base) for row, (target, update) in pairs]
    values = np.array(rows, np.float64).reshape(len(rows), len(names))
    return Features(tuple(adapter), names, values)


def _row(update: Update) -> tuple[float, ...]:
    s = singular_values(update.factors)
    largest = float(s.max(initial=0.0))
    if largest == 0.0:
        return (*(0.0,) * 6, float(update.rank), 0.0)
    share = 1.0 / stable_rank(s)
    # Of one number alone there is no spread.
    entropy = math.log(effective_rank(s)) / math.log(len(s)) if len(s) > 1 else 1.0
    return (
        largest / math.sqrt(share),
        largest,
        share,
        entropy,
        1.0 / share,
        float(np.sum(s > _NEGLIGIBLE * largest)),
        float(update.rank),
        _kurtosis(update.factors),
    )


def _kurtosis(update: LowRank) -> float:
    down, right = (-(-n // most) for n, most in zip(update.shape, _GRID, strict=True))
    a, b = update.A[:, ::right], update.B[::down]
    entries: NDArray[np.float64] = np.asarray(b, np.float64) @ np.asarray(a, np.float64)
    squares: NDArray[np.float64] = ((entries - entries.mean()) ** 2).ravel()
    if (variance := float(squares.mean())) == 0.0:
        return 0.0
    squares /= variance
    return float(squares @ squares) / squares.size


def _against(
    row: tuple[float, ...], target: Target, update: Update, base: BaseWeights
) -> tuple[float, ...]:
    weight = base.weight(*target)
    d_out, d_in = update.factors.shape
    if weight is None or weight.ndim == 0 or (len(weight), weight.size) != (d_out, d_out * d_in):
        return (math.nan,) * len(BASE_FEATURES)
    matrix = as_matrix(weight)
    if not np.isfinite(matrix).all():
        return (math.nan,) * len(BASE_FEATURES)
    frobenius, spectral = row[:2]
    size = float(np.linalg.norm(matrix))
    found = compared(update.factors, spectral, matrix)
    relative = frobenius / size if size else math.inf if frobenius else 0.0
    return (relative, found.relative_spectral, float(found.n_intruders), found.overlap)
