"""The worst case over several attacks, sample by sample."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from loricate.attacks.apgd import APGD
from loricate.attacks.square import Square
from loricate.basics.errors import ConfigProblem
from loricate.core.attack import Attack
from loricate.core.problem import Problem
from loricate.core.shapes import Batch

__all__ = ["Strongest"]


@final
@dataclass(frozen=True, kw_only=True)
class Strongest(Attack):
    """Runs attacks one after the other and keeps the best result of each sample.

    Never weaker than any of them on the objective; the harness judges the outcome like any other.

    Args:
        attacks: What to run; in a table, a list of tables with a ``name`` each.

    Source: the per-sample worst case of AutoAttack, Croce & Hein 2020 [croce2020], section 6.
    """

    attacks: tuple[Attack, ...] = (APGD(), Square())

    def inconsistencies(self) -> Iterator[ConfigProblem]:
        """Nothing to choose from."""
        if not self.attacks:
            yield ConfigProblem(key="attacks", expected="at least one attack", got=[])

    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Best result of each sample, compared as they would be saved."""
        best = problem.track(x)
        for attack in self.attacks:
            z = problem.feasible(attack.perturb(x, problem).detach())
            best.offer(z, problem.value(z))
        return best.x
