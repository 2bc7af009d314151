"""How a rank is chosen from a spectrum, as types.

A bare number means four different things in four tools, so a rule always carries its name. Every
rule stops at the numerical rank: what lies below is rounding, and keeping it would make the rank
depend on scale and orientation.
"""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.basics.arrays import Array, to_numpy, tolerance
from loricate.basics.errors import ConfigError, ConfigProblem, UnsupportedError, nearest
from loricate.lowrank._rank_rule import (
    RankRule,
    Shape,
    check_share,
    least_rank,
    misfit,
    numerical_rank,
)
from loricate.lowrank.peer_rules import PEER_RULES

__all__ = [
    "CutoffRank",
    "EnergyRank",
    "FixedRank",
    "NuclearRank",
    "NumericalRank",
    "OptimalRank",
    "RankRule",
    "certified_error",
    "numerical_rank",
    "parse",
]


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
            raise misfit(self.name, "a whole number of at least 1", self.k)

    def __str__(self) -> str:
        return f"{self.name}:{self.k}"

    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
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
        check_share(self.name, self.p)

    def __str__(self) -> str:
        return f"{self.name}:{self.p!r}"

    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        return s.size if self.p == 1.0 else least_rank((s / s[0]) ** 2, self.p, slack)


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
        check_share(self.name, self.p)

    def __str__(self) -> str:
        return f"{self.name}:{self.p!r}"

    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        return s.size if self.p == 1.0 else least_rank(s / s[0], self.p, slack)


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
            raise misfit(self.name, "a fraction in [0, 1)", self.c)

    def __str__(self) -> str:
        return f"{self.name}:{self.c!r}"

    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        return int(np.sum(s / s[0] > self.c + slack))


@final
@dataclass(frozen=True)
class NumericalRank(RankRule):
    """Every component that stands above rounding."""

    name: ClassVar[str] = "numerical"

    def __str__(self) -> str:
        return self.name

    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        return s.size


@final
@dataclass(frozen=True)
class OptimalRank(RankRule):
    """Every component above the optimal hard threshold for white noise of unknown level.

    The noise level comes from the median singular value, so the matrix must hold noise in every
    direction, as the difference of two trained weights does. A product of rank r has no noise
    floor and is refused.

    Source: Gavish & Donoho 2014 [gavish2014], equations 4 and 11; the median of the
    Marchenko-Pastur law is integrated numerically.
    """

    name: ClassVar[str] = "optimal"

    def __str__(self) -> str:
        return self.name

    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        if s.size < min(shape):
            what = f"a {shape[0]} x {shape[1]} matrix known to have rank {s.size} at most"
            hint = "it has no noise floor to find; use 'energy:P', 'numerical' or 'rank:K'"
            raise UnsupportedError(what, by=f"rule {self.name!r}", hint=hint)
        aspect = min(shape) / max(shape)
        return int(np.sum(s > _known_noise(aspect) / math.sqrt(_median(aspect)) * np.median(s)))


def _known_noise(aspect: float) -> float:
    # Threshold in units of noise level * root of the longer side.
    root = aspect + 1.0 + math.sqrt(aspect**2 + 14.0 * aspect + 1.0)
    return math.sqrt(2.0 * (aspect + 1.0) + 8.0 * aspect / root)


def _median(aspect: float) -> float:
    # Of the Marchenko-Pastur law, x = 1 + aspect + 2 * sqrt(aspect) * cos(theta), whose density in
    # theta is smooth; midpoints keep off the removable singularity at x = 0.
    steps = 20_000
    theta = (np.arange(steps) + 0.5) * (math.pi / steps)
    x = 1.0 + aspect + 2.0 * math.sqrt(aspect) * np.cos(theta)
    mass = np.cumsum(np.sin(theta) ** 2 / x)
    return float(np.interp(0.5 * mass[-1], mass, x))


def parse(text: str) -> RankRule:
    """Rule from its written form.

    Args:
        text: ``"fixed:8"`` (or ``"rank:8"``), ``"energy:0.95"``, ``"nuclear:0.9"``,
            ``"cutoff:0.01"``, ``"numerical"``, ``"optimal"``, or the rule of another tool such as
            ``"kohya:sv_fro:0.9"``; the inverse of ``str(rule)``.

    Returns:
        The rule.

    Raises:
        ConfigError: Unknown name, or a value that is missing, superfluous or out of range.
    """
    words = text.strip().split(":")
    owned = ":".join(words[:2]) in _RULES
    name, values = (":".join(words[:2]), words[2:]) if owned else (words[0], words[1:])
    if name not in _RULES or (values and not _RULES[name][1]):
        expected = f"one of {', '.join(_RULES)}, such as 'energy:0.95'"
        close = nearest(name if len(words) < 3 else ":".join(words[:2]), _RULES)
        raise ConfigError(ConfigProblem(key="rule", expected=expected, got=text, nearest=close))
    rule, numbers = _RULES[name]
    try:
        return rule(*(number(value) for number, value in zip(numbers, values, strict=True)))
    except ValueError:
        raise misfit(name, "a number after the colon", text) from None


_Numbers: TypeAlias = tuple[type[int] | type[float], ...]
# "rank" is how command lines spell a fixed rank.
_RULES: dict[str, tuple[Callable[..., RankRule], _Numbers]] = {
    "fixed": (FixedRank, (int,)),
    "rank": (FixedRank, (int,)),
    "energy": (EnergyRank, (float,)),
    "nuclear": (NuclearRank, (float,)),
    "cutoff": (CutoffRank, (float,)),
    "numerical": (NumericalRank, ()),
    "optimal": (OptimalRank, ()),
    **{rule.name: (rule, (float,)) for rule in PEER_RULES},
}
