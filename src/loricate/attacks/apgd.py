"""Gradient ascent with momentum that halves its steps when they stop paying."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import torch

from loricate.basics.spec import Count, Fraction01
from loricate.core.attack import Attack
from loricate.core.problem import Best, Problem
from loricate.core.shapes import Batch, PerSample

__all__ = ["APGD"]

_FIRST: Final = 0.22  # share of the steps before the first checkpoint
_SHRINK: Final = 0.03  # by how much each stretch is shorter than the one before
_SHORTEST: Final = 0.06


@final
@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Projected gradient ascent without a step size to choose.

    Each sample has its own step, first twice the radius. At checkpoints it is halved, and the
    search goes back to the best point, where too few steps gained or nothing was found since the
    last one.

    Args:
        steps: Gradient steps per restart.
        n_restarts: Independent starts; the best result of each sample is kept.
        start: An attack from whose result the first restart begins; otherwise it begins at a
            random point of the ball, as the others do.
        momentum: Share of the new step in the next point; the rest continues the last move.
        rho: Share of the steps since a checkpoint that must gain for the step to stay.

    Source: Croce & Hein 2020 [croce2020], algorithm 1, with its checkpoints and constants.
    Deviates: any objective, and starts that are uniform in the ball.
    """

    steps: Count = 100
    n_restarts: Count = 1
    start: Attack | None = None
    momentum: Fraction01 = 0.75
    rho: Fraction01 = 0.75

    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Best point over all steps and restarts."""
        best = problem.track(x)
        for restart in range(self.n_restarts):
            climbed = self._climb(self._begin(restart, problem), problem)
            best.offer(climbed.x, climbed.value)
        return best.x

    def _begin(self, restart: int, problem: Problem) -> Batch:
        if self.start is None or restart > 0:
            return problem.start(restart)
        return problem.feasible(self.start.perturb(problem.center, problem).detach())

    def _climb(self, z: Batch, problem: Problem) -> Best:
        value, gradient = problem.value_and_grad(z)
        best, best_gradient = Best(z, value), gradient
        pace = _Pace(2 * float(problem.ball.epsilon), value, self.rho)
        checkpoints, previous = set(_checkpoints(self.steps)), z
        for step in range(1, self.steps + 1):
            z, previous = self._step(z, previous, gradient, pace.length, problem), z
            if step == self.steps:
                best.offer(z, problem.value(z))
                break
            value, gradient = problem.value_and_grad(z)
            best_gradient = _where(value > best.value, gradient, best_gradient)
            best.offer(z, value)
            pace.count(value)
            if step in checkpoints:
                halved = pace.review(best.value)
                z, gradient = _where(halved, best.x, z), _where(halved, best_gradient, gradient)
        return best

    def _step(
        self, z: Batch, previous: Batch, gradient: Batch, length: PerSample, problem: Problem
    ) -> Batch:
        ascent = problem.ball.steepest(gradient)
        ahead = problem.feasible(torch.addcmul(z, ascent, _column(length, z)))
        if previous is z:
            return ahead
        share = float(self.momentum)
        moved = torch.lerp(z, ahead, share)
        return problem.feasible(moved.add_(z - previous, alpha=1 - share))


class _Pace:
    """Step length of each sample, and what it has been worth since the last checkpoint."""

    def __init__(self, length: float, value: PerSample, rho: float) -> None:
        self.length = torch.full_like(value, length)
        self._rho = rho
        self._value = value
        self._best = value
        self._was_halved = torch.ones_like(value, dtype=torch.bool)
        self._gains = torch.zeros_like(value)
        self._steps = 0

    def count(self, value: PerSample) -> None:
        """Note whether the last step gained."""
        self._gains = self._gains + (value > self._value)
        self._value = value
        self._steps += 1

    def review(self, best: PerSample) -> PerSample:
        """Halve where steps did not pay; returns where."""
        stalls = self._gains < self._rho * self._steps
        is_stuck = ~self._was_halved & (best <= self._best)
        halved = stalls | is_stuck
        self.length = torch.where(halved, self.length / 2, self.length)
        self._best, self._was_halved = best, halved
        self._gains, self._steps = torch.zeros_like(self._gains), 0
        return halved


def _checkpoints(steps: int) -> Iterator[int]:
    """Steps after which progress is reviewed: stretches that become shorter."""
    share, stretch = _FIRST, _FIRST
    while share <= 1:
        # The share is summed in binary: 0.57 must not become 58 steps of 100.
        yield math.ceil(round(share * steps, 6))
        stretch = max(stretch - _SHRINK, _SHORTEST)
        share += stretch


def _where(chosen: PerSample, these: Batch, others: Batch) -> Batch:
    return torch.where(_column(chosen, these), these, others)


def _column(values: PerSample, like: Batch) -> Batch:
    return values.view(-1, *(1,) * (like.ndim - 1))
