"""What the attacker may do and knows."""

from dataclasses import dataclass

from loricate.basics.spec import Count, Spec
from loricate.core.balls import L2, Linf

__all__ = ["ThreatModel"]


@dataclass(frozen=True, kw_only=True)
class ThreatModel(Spec):
    """A white-box attacker with a budget.

    Args:
        ball: Allowed perturbations.
        eot_samples: Random draws over which gradients are averaged, on random surfaces.
    """

    ball: Linf | L2
    eot_samples: Count = 1
