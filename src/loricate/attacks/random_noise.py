"""Noise of the same budget: what an attack must beat to be one."""

from dataclasses import dataclass
from typing import final

from loricate.basics.spec import Count
from loricate.core.attack import Attack
from loricate.core.problem import Problem
from loricate.core.shapes import Batch

__all__ = ["RandomNoise"]


@final
@dataclass(frozen=True, kw_only=True)
class RandomNoise(Attack):
    """A random point on the border of the ball; no gradient is used.

    Args:
        n_restarts: Draws, of which the best for the objective is kept; 1 is plain noise.
    """

    n_restarts: Count = 1

    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Best of the draws."""
        best = problem.track(problem.noise(0))
        for restart in range(1, self.n_restarts):
            z = problem.noise(restart)
            best.offer(z, problem.value(z))
        return best.x
