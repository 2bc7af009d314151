"""Ascent along gradients guessed from values alone."""

from dataclasses import dataclass
from typing import Literal, final

import torch

from loricate.basics.spec import Count, Length
from loricate.core.attack import Attack
from loricate.core.problem import Best, Problem
from loricate.core.shapes import Batch

__all__ = ["SPSA"]


@final
@dataclass(frozen=True, kw_only=True)
class SPSA(Attack):
    """Steps along an estimate: differences of the objective over pairs of random opposite moves.

    A smooth objective is climbed even where its gradient lies: on surfaces that cut, round or
    replace it.

    Args:
        steps: Steps, each the length of a PGD step with decay.
        n_pairs: Pairs of moves behind an estimate; a step asks for twice as many values.
        reach: Length of a move in every coordinate, over epsilon.
        directions: ``"signs"`` is SPSA, ``"normal"`` is NES.

    Source: Uesato et al. 2018 [uesato2018], algorithm 1; Ilyas et al. 2018 [ilyas2018], algorithm
    1, for normal moves. Deviates: normalized steps that shrink to zero, in place of Adam; moves
    end inside the ball, and are themselves kept where they gain.
    """

    steps: Count = 25
    n_pairs: Count = 16
    reach: Length = 0.25
    directions: Literal["signs", "normal"] = "signs"

    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Best point over all steps and moves."""
        best, z, generators = problem.track(x), problem.start(0), problem.random(1)
        for step in range(self.steps):
            gradient = self._estimate(z, best, problem, generators)
            length = 2 * float(problem.ball.epsilon) * (1 - step / self.steps)
            z = problem.feasible(z + length * problem.ball.steepest(gradient))
            best.offer(z, problem.value(z))
        return best.x

    def _estimate(
        self, z: Batch, best: Best, problem: Problem, generators: list[torch.Generator]
    ) -> Batch:
        gradient = torch.zeros_like(z)
        reach = self._move_length(problem)
        for _ in range(self.n_pairs):
            move = reach * torch.stack([self._direction(z, g) for g in generators]).to(z)
            ahead, behind = problem.feasible(z + move), problem.feasible(z - move)
            values = problem.value(ahead), problem.value(behind)
            best.offer(ahead, values[0])
            best.offer(behind, values[1])
            difference = (values[0] - values[1]).view(-1, *(1,) * (z.ndim - 1))
            gradient += difference * (ahead - behind)
        return gradient

    def _move_length(self, problem: Problem) -> float:
        """Size of a coordinate of a move that reaches a share of the radius."""
        ones = torch.ones_like(problem.center[:1])
        return float(self.reach) * float(problem.ball.epsilon) / float(problem.ball.size(ones))

    def _direction(self, z: Batch, generator: torch.Generator) -> Batch:
        if self.directions == "normal":
            return torch.randn(z.shape[1:], generator=generator)
        return 2 * torch.rand(z.shape[1:], generator=generator).round() - 1
