"""Projected gradient ascent inside a ball."""

from dataclasses import dataclass
from typing import final

import torch

from loricate.basics.spec import Count, Length
from loricate.core.attack import Attack
from loricate.core.problem import Problem
from loricate.core.shapes import Batch

__all__ = ["PGD"]


@final
@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Ascend the objective with normalized steps, projecting back onto the ball.

    Keeps the best iterate seen, so the result is never worse than the input.

    Args:
        steps: Gradient steps per restart.
        step_size: First step length in domain units; ``None`` means 2 * epsilon with ``decay``,
            2.5 * epsilon / steps without.
        n_restarts: Independent starts; the best result of each sample is kept.
        random_start: Start uniformly in the ball. ``False`` starts at the input, where an
            objective that measures displacement from the clean output has no gradient.
        decay: Shrink the step linearly to zero, from crossing the ball to settling in it.

    Source: Madry et al. 2018 [madry2018], section 2.1; the first step is that of Croce & Hein
    2020 [croce2020], section 3. Deviates: best iterate, not the last.
    """

    steps: Count = 40
    step_size: Length | None = None
    n_restarts: Count = 1
    random_start: bool = True
    decay: bool = True

    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Best point over all steps and restarts."""
        best = problem.track(x)
        for restart in range(self.n_restarts):
            z = problem.start(restart) if self.random_start else x
            for step in range(self.steps):
                value, gradient = problem.value_and_grad(z)
                best.offer(z, value)
                length = self._length(step, float(problem.ball.epsilon))
                z = problem.feasible(torch.add(z, problem.ball.steepest(gradient), alpha=length))
            best.offer(z, problem.value(z))
        return best.x

    def _length(self, step: int, epsilon: float) -> float:
        if self.decay:
            return (self.step_size or 2 * epsilon) * (1 - step / self.steps)
        return self.step_size or 2.5 * epsilon / self.steps
