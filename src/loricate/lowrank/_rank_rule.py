"""What all rank rules have in common."""

from abc import ABC, abstractmethod
from typing import ClassVar, TypeAlias, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.basics.arrays import Array, to_numpy, tolerance, unit_roundoff
from loricate.basics.errors import ConfigError, ConfigProblem

__all__ = ["RankRule", "Shape", "check_share", "least_rank", "misfit", "numerical_rank"]

Shape: TypeAlias = tuple[int, int]


def numerical_rank(s: Float[Array, " k"], shape: Shape) -> int:
    """Number of singular values that stand above rounding.

    Args:
        s: Singular values in descending order.
        shape: Shape of the matrix they belong to.

    Returns:
        Count of values above ``max(shape) * unit roundoff * s[0]``.
    """
    return _numerical_rank(to_numpy(s), max(shape) * unit_roundoff(s))


def _numerical_rank(values: NDArray[np.float64], share: float) -> int:
    # > and not >=: an all-zero matrix has rank 0.
    return int(np.count_nonzero(values > share * values.max(initial=0.0)))


class RankRule(ABC):
    """Chooses how many leading singular components to keep."""

    name: ClassVar[str]

    @final
    def rank(self, s: Float[Array, " k"], shape: Shape) -> int:
        """Rank kept for a spectrum, never above the numerical rank.

        Args:
            s: Singular values in descending order.
            shape: Shape of the matrix they belong to.

        Returns:
            Rank between 0 and ``min(shape)``; 0 for the zero matrix.
        """
        values = to_numpy(s)
        limit = _numerical_rank(values, max(shape) * unit_roundoff(s))
        if limit == 0:
            return 0
        slack = tolerance(values, shape, dtype=s) / float(values[0])
        return min(limit, self._wanted(values, shape, slack))

    @abstractmethod
    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        """Rank before the numerical rank caps it; ``s[0]`` is positive.

        ``slack`` is the rounding of the spectrum, as a share of ``s[0]``.
        """


def check_share(name: str, p: float) -> None:
    """Refuse what is no share in (0, 1]."""
    if not 0.0 < p <= 1.0:
        raise misfit(name, "a share in (0, 1]", p)


def misfit(name: str, expected: str, got: object) -> ConfigError:
    """The error of a rule whose value does not fit."""
    return ConfigError(ConfigProblem(key=f"rule.{name}", expected=expected, got=got))


def least_rank(terms: NDArray[np.float64], p: float, slack: float) -> int:
    """Least number of leading terms whose sum is the share ``p`` of the whole, up to ``slack``."""
    sums = np.cumsum(terms)
    # The last sum always qualifies, because sums[-1] is the total itself.
    return int(np.argmax(sums >= (p - slack) * sums[-1])) + 1
