"""One gradient step from a random start."""

from dataclasses import dataclass
from typing import final

from loricate.basics.spec import Length
from loricate.core.attack import Attack
from loricate.core.problem import Problem
from loricate.core.shapes import Batch

__all__ = ["FGSM"]


@final
@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """A single step of a random point of the ball along the gradient.

    Cheap enough for the inner loop of training; far too weak to evaluate with.

    Args:
        step_share: Length of the step over epsilon.

    Source: Wong et al. 2020 [wong2020], algorithm 3.
    """

    step_share: Length = 1.25

    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Where the step leads."""
        start = problem.start(0)
        _, gradient = problem.value_and_grad(start)
        length = self.step_share * float(problem.ball.epsilon)
        return problem.feasible(start + length * problem.ball.steepest(gradient))
