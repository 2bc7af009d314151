"""How a rank is chosen from a spectrum, as types.

A bare number means four different things in four tools, so a rule always carries its name. Every
rule stops at the numerical rank: what lies below is rounding, and keeping it would make the rank
depend on scale and orientation.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.basics.arrays import Array, to_numpy, tolerance, unit_roundoff
from loricate.basics.errors import ConfigError, ConfigProblem, nearest

__all__ = [
    "CutoffRank",
    "EnergyRank",
    "FixedRank",
    "NuclearRank",
    "NumericalRank",
    "RankRule",
    "certified_error",
    "numerical_rank",
    "parse",
]

Shape: TypeAlias = tuple[int, int]


def numerical_rank(s: Float[Array, " k"], shape: Shape) -> int:
    """Number of singular values that stand above rounding.

    Args:
        s: Singular values in descending order.
        shape: Shape of the matrix they belong to.

    Returns:
        Count of values above ``max(shape) * unit roundoff * s[0]``.
    """
    values = to_numpy(s)
    # > and not >=: an all-zero matrix has rank 0.
    return int(np.sum(values > max(shape) * unit_roundoff(s) * values.max(initial=0.0)))


def certified_error(s: Float[Array, " k"], shape: Shape, rank: int) -> float:
    """Upper bound of the relative Frobenius error left by the first ``rank`` components.

    The root of the discarded energy, plus what the rounding of the decomposition itself may hide.

    Args:
        s: All singular values, in descending order.
        shape: Shape of the matrix they belong to.
        rank: Number of leading components kept.

    Returns:
        Bound in [0, 1]; 0 for the zero matrix.

    Source: Eckart & Young 1936 [eckart1936]; backward error of the SVD, Golub & Van Loan 2013
    [golub2013], section 8.6.
    """
    values = to_numpy(s)
    norm = float(np.linalg.norm(values))
    if norm == 0.0:
        return 0.0
    tail = float(np.linalg.norm(values[rank:]))
    return min(1.0, (tail + tolerance(s, shape)) / norm)


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
        limit = numerical_rank(s, shape)
        if limit == 0:
            return 0
        values = to_numpy(s)
        return min(limit, self._wanted(values, slack=tolerance(s, shape) / float(values[0])))

    @abstractmethod
    def _wanted(self, s: NDArray[np.float64], slack: float) -> int:
        """Rank before the numerical rank caps it; ``s[0]`` is positive."""


@final
@dataclass(frozen=True)
class FixedRank(RankRule):
    """The same rank everywhere.

    Args:
        k: Rank to keep, at least 1.
    """

    name: ClassVar[str] = "fixed"
    k: int

    def __post_init__(self) -> None:
        if operator.index(self.k) < 1:
            raise _misfit(self.name, "a whole number of at least 1", self.k)

    def __str__(self) -> str:
        return f"{self.name}:{self.k}"

    def _wanted(self, s: NDArray[np.float64], slack: float) -> int:
        return self.k


@final
@dataclass(frozen=True)
class EnergyRank(RankRule):
    """Least rank that keeps a share of the squared Frobenius norm.

    A share met up to rounding counts as met, so that a flat spectrum gives one answer. The share 1
    keeps the numerical rank.

    Args:
        p: Share of the sum of squared singular values, in (0, 1].
    """

    name: ClassVar[str] = "energy"
    p: float

    def __post_init__(self) -> None:
        _check_share(self.name, self.p)

    def __str__(self) -> str:
        return f"{self.name}:{self.p!r}"

    def _wanted(self, s: NDArray[np.float64], slack: float) -> int:
        return _least_rank((s / s[0]) ** 2, self.p, slack)


@final
@dataclass(frozen=True)
class NuclearRank(RankRule):
    """Least rank that keeps a share of the nuclear norm.

    A share met up to rounding counts as met. The share 1 keeps the numerical rank.

    Args:
        p: Share of the sum of singular values, in (0, 1].
    """

    name: ClassVar[str] = "nuclear"
    p: float

    def __post_init__(self) -> None:
        _check_share(self.name, self.p)

    def __str__(self) -> str:
        return f"{self.name}:{self.p!r}"

    def _wanted(self, s: NDArray[np.float64], slack: float) -> int:
        return _least_rank(s / s[0], self.p, slack)


@final
@dataclass(frozen=True)
class CutoffRank(RankRule):
    """Every component above a fraction of the largest singular value.

    Args:
        c: Fraction of the largest singular value, in [0, 1); values equal to it are dropped.
    """

    name: ClassVar[str] = "cutoff"
    c: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.c < 1.0:
            raise _misfit(self.name, "a fraction in [0, 1)", self.c)

    def __str__(self) -> str:
        return f"{self.name}:{self.c!r}"

    def _wanted(self, s: NDArray[np.float64], slack: float) -> int:
        return int(np.sum(s / s[0] > self.c + slack))


@final
@dataclass(frozen=True)
class NumericalRank(RankRule):
    """Every component that stands above rounding."""

    name: ClassVar[str] = "numerical"

    def __str__(self) -> str:
        return self.name

    def _wanted(self, s: NDArray[np.float64], slack: float) -> int:
        return s.size


def parse(text: str) -> RankRule:
    """Rule from its written form.

    Args:
        text: ``"fixed:8"`` (or ``"rank:8"``), ``"energy:0.95"``, ``"nuclear:0.9"``,
            ``"cutoff:0.01"`` or ``"numerical"``; the inverse of ``str(rule)``.

    Returns:
        The rule.

    Raises:
        ConfigError: Unknown name, or a value that is missing, superfluous or out of range.
    """
    name, _, value = text.strip().partition(":")
    if name == "numerical" and not value:
        return NumericalRank()
    if name not in _RULES:
        expected = f"one of {', '.join([*_RULES, 'numerical'])}, such as 'energy:0.95'"
        close = nearest(name, [*_RULES, "numerical"])
        raise ConfigError(ConfigProblem(key="rule", expected=expected, got=text, nearest=close))
    rule, number = _RULES[name]
    try:
        return rule(number(value))
    except ValueError:
        raise _misfit(name, "a number after the colon", text) from None


# "rank" is how command lines spell a fixed rank.
_RULES: dict[str, tuple[Callable[..., RankRule], type]] = {
    "fixed": (FixedRank, int),
    "rank": (FixedRank, int),
    "energy": (EnergyRank, float),
    "nuclear": (NuclearRank, float),
    "cutoff": (CutoffRank, float),
}


def _check_share(name: str, p: float) -> None:
    if not 0.0 < p <= 1.0:
        raise _misfit(name, "a share in (0, 1]", p)


def _misfit(name: str, expected: str, got: object) -> ConfigError:
    return ConfigError(ConfigProblem(key=f"rule.{name}", expected=expected, got=got))


def _least_rank(terms: NDArray[np.float64], p: float, slack: float) -> int:
    if p == 1.0:
        return terms.size
    sums = np.cumsum(terms)
    # The last sum always qualifies, because sums[-1] is the total itself.
    return int(np.argmax(sums >= (p - slack) * sums[-1])) + 1
