"""How other tools choose a rank from the same spectrum, under their own names.

Sums and comparisons are those of the tool, in float64 and without allowance for rounding. They
deviate where every rule here has to: none goes above the numerical rank, the zero matrix has rank
0 (kohya says 1), and none gives up on factors (LyCORIS stores the dense weight from a rank of half
the output width on).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from loricate.lowrank._rank_rule import RankRule, Shape, check_share, least_rank, misfit

__all__ = [
    "PEER_RULES",
    "KohyaCumulativeRank",
    "KohyaFrobeniusRank",
    "KohyaRatioRank",
    "LycorisQuantileRank",
    "PeftEnergyRank",
]

# Matrices whose largest singular value is no larger count as zero in kohya's resize.
_KOHYA_ZERO = 1e-6


class _KohyaRank(RankRule):
    # kohya adds 1 twice: once to turn an index into a count, and once more for good measure. The
    # count in between is kept within [1, min(shape) - 1].
    target: float

    def __str__(self) -> str:
        return f"{self.name}:{self.target!r}"

    @final
    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        if s[0] <= _KOHYA_ZERO:
            return 1
        return 1 + max(1, min(self._count(s), min(shape) - 1))

    @abstractmethod
    def _count(self, s: NDArray[np.float64]) -> int:
        """Count before kohya clips it and adds 1."""


@final
@dataclass(frozen=True)
class KohyaRatioRank(_KohyaRank):
    """One more than the number of values above the largest over ``target``; at least 2.

    Args:
        target: Largest ratio of singular values, at least 1.

    Source: sd-scripts 48d368fa, ``networks/resize_lora.py``, ``--dynamic_method sv_ratio`` without
    the limit of ``--new_rank``.
    """

    name: ClassVar[str] = "kohya:sv_ratio"
    target: float

    def __post_init__(self) -> None:
        if not 1.0 <= self.target < np.inf:
            raise misfit(self.name, "a ratio of at least 1", self.target)

    def _count(self, s: NDArray[np.float64]) -> int:
        return int(np.sum(s > s[0] / self.target))


@final
@dataclass(frozen=True)
class KohyaCumulativeRank(_KohyaRank):
    """One more than the least rank with the share ``target`` of the nuclear norm; at least 2.

    Args:
        target: Share of the sum of singular values, in (0, 1].

    Source: sd-scripts 48d368fa, ``networks/resize_lora.py``, ``--dynamic_method sv_cumulative``
    without the limit of ``--new_rank``.
    """

    name: ClassVar[str] = "kohya:sv_cumulative"
    target: float

    def __post_init__(self) -> None:
        check_share(self.name, self.target)

    def _count(self, s: NDArray[np.float64]) -> int:
        return least_rank(s, self.target, 0.0)


@final
@dataclass(frozen=True)
class KohyaFrobeniusRank(_KohyaRank):
    """One more than the least rank with the share ``target`` of the Frobenius norm; at least 2.

    The share is of the norm, not of its square: 0.9 here is ``energy:0.81``, plus one.

    Args:
        target: Share of the root of the sum of squared singular values, in (0, 1].

    Source: sd-scripts 48d368fa, ``networks/resize_lora.py``, ``--dynamic_method sv_fro`` without
    the limit of ``--new_rank``.
    """

    name: ClassVar[str] = "kohya:sv_fro"
    target: float

    def __post_init__(self) -> None:
        check_share(self.name, self.target)

    def _count(self, s: NDArray[np.float64]) -> int:
        return least_rank(s**2, self.target**2, 0.0)


@final
@dataclass(frozen=True)
class LycorisQuantileRank(RankRule):
    """Number of leading sums that stay strictly below a share of the nuclear norm; at least 1.

    One less than ``nuclear`` keeps, because the component that reaches the share is left out.

    Args:
        p: Share of the sum of singular values, in (0, 1].

    Source: LyCORIS f49d30d, ``lycoris/utils``, mode ``quantile``. Deviates: LyCORIS also limits the
    rank of a convolution by its input channels.
    """

    name: ClassVar[str] = "lycoris:quantile"
    p: float

    def __post_init__(self) -> None:
        check_share(self.name, self.p)

    def __str__(self) -> str:
        return f"{self.name}:{self.p!r}"

    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        return max(1, least_rank(s, self.p, 0.0) - 1)


@final
@dataclass(frozen=True)
class PeftEnergyRank(RankRule):
    """Least rank that keeps a share of the squared Frobenius norm, without allowance for rounding.

    Differs from ``energy`` only where the share is met up to rounding, and at the share 1.

    Args:
        p: Share of the sum of squared singular values, in (0, 1].

    Source: peft 0.21.2, ``tuners/lora/conversion.py``, a ``rank`` given as a float.
    """

    name: ClassVar[str] = "peft:energy"
    p: float

    def __post_init__(self) -> None:
        check_share(self.name, self.p)

    def __str__(self) -> str:
        return f"{self.name}:{self.p!r}"

    def _wanted(self, s: NDArray[np.float64], shape: Shape, slack: float) -> int:
        return least_rank(s**2, self.p, 0.0)


PEER_RULES = (
    KohyaRatioRank,
    KohyaCumulativeRank,
    KohyaFrobeniusRank,
    LycorisQuantileRank,
    PeftEnergyRank,
)
