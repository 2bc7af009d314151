"""What a number was measured under; the same words in rows, aggregates and tables."""

from dataclasses import dataclass
from typing import Final, Self, final

from loricate.records.names import NO_ATTACK, NO_OBJECTIVE
from loricate.records.schema import Aggregate, SampleRow

__all__ = ["CLEAN", "Condition"]


@final
@dataclass(frozen=True, order=True)
class Condition:
    """An attack at one radius.

    Args:
        surface: What was attacked.
        attack: Registry key, ``none`` for clean inputs.
        objective: Registry key, ``none`` where nothing is maximized.
        norm: Norm of the budget, or its unit.
        epsilon: Radius in domain units.
        variant: Tells apart what agrees in everything else.
    """

    surface: str
    attack: str
    objective: str
    norm: str
    epsilon: float
    variant: str = ""

    @classmethod
    def of(cls, measured: Aggregate | SampleRow) -> Self:
        """Condition of a number in a record."""
        m = measured
        return cls(m.surface, m.attack, m.objective, m.norm, float(m.epsilon), m.variant)


CLEAN: Final = Condition("pipeline", NO_ATTACK, NO_OBJECTIVE, "linf", 0.0)
"""No attack on pictures."""
