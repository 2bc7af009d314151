"""What an attack is given: a value to raise inside a ball, and nothing about the model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from loricate.basics.errors import NumericalError, UnsupportedError
from loricate.basics.seeds import derive_seed
from loricate.core.balls import Ball
from loricate.core.domain import Domain
from loricate.core.generators import Seeds, generators
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.core.surrogate import Surrogate
from loricate.core.threat import ThreatModel

__all__ = ["Best", "Problem"]


class Best:
    """The best feasible point of each sample so far.

    Args:
        x: Points to start from.
        value: Their values.
    """

    def __init__(self, x: Batch, value: PerSample) -> None:
        self.x = x.clone()
        self.value = value.clone()

    def offer(self, z: Batch, value: PerSample) -> None:
        """Keep ``z`` for the samples where it is better."""
        better = value > self.value
        if bool(better.any()):
            self.value = torch.where(better, value, self.value)
            # Weights of exactly 0 and 1 choose; torch is several times slower with booleans.
            weight = better.view(-1, *(1,) * (z.ndim - 1)).to(z.dtype)
            self.x = torch.lerp(self.x, z, weight)


@dataclass(frozen=True)
class _Draw:
    seeds: Seeds
    reference: Tensor


class Problem:
    """Value and gradient of an objective near clean inputs, with every random draw addressed.

    On a random surface the value is the mean over a fixed pool of draws, so that iterates can be
    compared; the pool is the attacker's own and never the one results are scored with.

    Args:
        surface: The attacked map.
        objective: What to maximize.
        threat: Budget and draws.
        x: Clean inputs.
        seeds: One a sample.
    """

    def __init__(
        self, surface: Surface, objective: Objective, threat: ThreatModel, x: Batch, seeds: Seeds
    ) -> None:
        self.ball: Ball = threat.ball
        self.center = x
        self.history: list[tuple[float, float]] = []
        self.first: tuple[PerSample, PerSample] | None = None
        self._surface = _Asked(surface, x)
        self._objective = objective
        self._seeds = seeds
        self._count = threat.eot_samples if surface.is_random else 1
        self._adaptations = 0
        if isinstance(surface, Surrogate):
            surface.reset()
        self._draws = self._pool()

    @property
    def domain(self) -> Domain:
        """Where inputs live."""
        return self._surface.domain

    @property
    def calls(self) -> int:
        """Samples the surface has been asked for."""
        return self._surface.calls

    @cached_property
    def clean_value(self) -> PerSample:
        """Mean objective of the clean inputs, evaluated once."""
        return self._mean_value(self.center)

    def start(self, restart: int) -> Batch:
        """A random feasible point: displacement objectives have no gradient at the input."""
        return self.feasible(self.ball.sample(self.center, self.random(restart)))

    def noise(self, restart: int) -> Batch:
        """A random feasible point at full radius."""
        return self.feasible(self.ball.surface_sample(self.center, self.random(restart)))

    def random(self, restart: int) -> list[torch.Generator]:
        """One generator a sample for a restart."""
        return generators(self._seeds, "restart", restart)

    def adapt(self, z: Batch) -> None:
        """Let a surrogate learn from ``z``, and judge by what it has become, with new draws.

        Values before and after are those of two models, and are not to be compared.

        Args:
            z: Points to learn from.

        Raises:
            UnsupportedError: The surface does not learn.
        """
        surrogate = self._surface.surface
        if not isinstance(surrogate, Surrogate):
            hint = "attack a surface of a family's fine-tuning, or use an attack without surrogate"
            raise UnsupportedError("poisoning", by="a surface that does not learn", hint=hint)
        self._adaptations += 1
        surrogate.adapt(
            z.detach(), [derive_seed(seed, "adapt", self._adaptations) for seed in self._seeds]
        )
        self._surface.forget()
        self.__dict__.pop("clean_value", None)
        self._draws = self._pool()

    def feasible(self, z: Batch) -> Batch:
        """Nearest point of ball and box."""
        low, high = self.domain.lower, self.domain.upper
        return self.ball.project_into_box(z, self.center, low, high)

    def track(self, x: Batch) -> Best:
        """A record of the best point, beginning with ``x``."""
        return Best(x, self.value(x))

    def value(self, z: Batch) -> PerSample:
        """Mean objective over the draws, without gradient."""
        return self.clean_value if z is self.center else self._mean_value(z)

    def value_and_grad(self, z: Batch) -> tuple[PerSample, Batch]:
        """Mean objective over the draws and its gradient in ``z``.

        Args:
            z: Points to evaluate.

        Returns:
            One value a sample, and a gradient of the shape of ``z``.

        Raises:
            NumericalError: The objective is NaN or infinite.
            UnsupportedError: The surface cuts its output off from its input.
        """
        values, gradients = zip(
            *(self._differentiate(z, draw) for draw in self._draws), strict=True
        )
        value, gradient = _mean(values), _mean(gradients)
        size = float(gradient.abs().mean())
        self.history.append((self._finite(value), size))
        if self.first is None:
            self.first = value, gradient.abs().flatten(1).mean(1)
        return value, gradient

    def _mean_value(self, z: Batch) -> PerSample:
        with torch.no_grad():
            values = [self._evaluate(z, draw) for draw in self._draws]
        value = _mean(values)
        self._finite(value)
        return value

    def _differentiate(self, z: Batch, draw: _Draw) -> tuple[PerSample, Batch]:
        leaf = z.detach().requires_grad_(True)
        with torch.enable_grad():
            value = self._evaluate(leaf, draw)
            gradient = _gradient(value, leaf)
        if gradient is None:
            hint = "remove detach() and no_grad() from it, or use an attack without gradients"
            raise UnsupportedError("a gradient attack", by="a surface without gradient", hint=hint)
        return value.detach(), gradient

    def _pool(self) -> list[_Draw]:
        first = self._count * self._adaptations
        with torch.no_grad():
            return [self._draw(first + index) for index in range(self._count)]

    def _draw(self, index: int) -> _Draw:
        seeds = [derive_seed(seed, "attack-draw", index) for seed in self._seeds]
        reference = self._objective.reference(self._surface, self.center, seeds)
        return _Draw(seeds, reference)

    def _evaluate(self, z: Batch, draw: _Draw) -> PerSample:
        return self._objective.value(self._surface(z, draw.seeds), draw.reference)

    def _finite(self, value: PerSample) -> float:
        """Mean of the values, which is not finite where one of them is not."""
        mean = float(value.mean())
        if not math.isfinite(mean):
            raise NumericalError("the objective is NaN or infinite", step=len(self.history))
        return mean


class _Asked(Surface):
    """A surface that counts its samples, and answers for the clean inputs once a draw.

    The answer serves as reference and for the clean value, neither of which needs its gradient.
    """

    def __init__(self, surface: Surface, clean: Batch) -> None:
        self.calls = 0
        self.surface = surface
        self._clean = clean
        self._answers: dict[tuple[int, ...], Tensor] = {}

    @property
    def domain(self) -> Domain:
        return self.surface.domain

    @property
    def is_random(self) -> bool:
        return self.surface.is_random

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        if x is not self._clean:
            return self._ask(x, seeds)
        if (draw := tuple(seeds)) not in self._answers:
            self._answers[draw] = self._ask(x, seeds).detach()
        return self._answers[draw]

    def forget(self) -> None:
        """Drop the answers of a surface that has changed."""
        self._answers.clear()

    def _ask(self, x: Batch, seeds: Seeds) -> Tensor:
        self.calls += len(x)
        return self.surface(x, seeds)


def _mean(draws: Sequence[Tensor]) -> Tensor:
    return draws[0] if len(draws) == 1 else torch.stack(list(draws)).mean(0)


def _gradient(value: PerSample, leaf: Batch) -> Batch | None:
    if not value.requires_grad:
        return None
    return torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0]
