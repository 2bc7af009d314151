"""The weight of the clean loss, as the multiplier of a constraint on clean drift."""

import math
from dataclasses import dataclass
from typing import Final

__all__ = ["Anchor"]

_TINY: Final = 1e-12
_RATE: Final = 0.1
# An unbounded multiplier winds up while the first large steps overshoot, and takes a hundred steps
# to come down again.
_BOUNDS: Final = (1e-2, 20.0)


@dataclass(frozen=True)
class Anchor:
    """A weight that rises while the clean drift is above its aim, and falls below it.

    Args:
        aim: Clean drift wanted.
        start: Weight before the first step.
    """

    aim: float
    start: float

    def weight(self, state: dict[str, float], drift: float) -> float:
        """The weight after a step; a step on its logarithm.

        Args:
            state: Kept between steps, and written to.
            drift: Squared clean drift of the step.
        """
        seen = 0.9 * state.get("drift", drift) + 0.1 * drift
        excess = (seen**0.5 / max(self.aim, _TINY)) - 1
        change = min(1.0, max(-1.0, excess)) * _RATE
        weight = state.get("anchor", self.start) * math.exp(change)
        state["drift"], state["anchor"] = seen, min(max(weight, _BOUNDS[0]), _BOUNDS[1])
        return state["anchor"]
