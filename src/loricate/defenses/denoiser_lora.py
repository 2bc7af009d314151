"""Low-rank adapters of the denoiser trained against attacks on what it denoises."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from loricate.basics.spec import Fraction01, PixelLength
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.domain import Domain
from loricate.core.generators import Seeds, sample_seeds
from loricate.core.objective import Objective
from loricate.core.problem import Problem
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.core.threat import ThreatModel
from loricate.defenses._adapter_defense import AdapterDefense
from loricate.defenses._target import Target, batch_rows
from loricate.defenses._training import Losses, LossesOfStep
from loricate.surfaces.attach import Attached

__all__ = ["DenoiserLora"]


@final
@dataclass(frozen=True, kw_only=True)
class DenoiserLora(AdapterDefense):
    """Min-max of the denoising error, on pictures or on latents: an ablation.

    Minimizes ``(1 - clean) * max |r(x + delta)|^2 + clean * |r(x)|^2``, r being the target
    surface's residual, predicted minus true. A surface on pixels attacks pictures through the
    encoder; one on latents attacks those, and then ``images`` are latents and ``epsilon`` a
    length among them. Both terms and the attack share the noise and timesteps of a step.

    Args:
        inner: Attack of the training; differ from the one used to evaluate.
        norm: Norm of its ball.
        epsilon: Its radius in units of the surface's domain.
        clean: Share of the clean error.

    Source: adversarial training, Madry et al. 2018 [madry2018], equation 2.1, with the error of
    AdvDM [advdm2023]. Deviates: low-rank, and mixed with the clean error.
    """

    inner: Attack
    norm: Literal["linf", "l2"] = "linf"
    epsilon: PixelLength = 8 / 255
    clean: Fraction01 = 0.5

    def losses(self, target: Target, attached: Attached, images: Batch, seed: int) -> LossesOfStep:
        """Denoising error under attack and without."""
        return _Step(self, target, images, seed)


@final
@dataclass(frozen=True, kw_only=True)
class _Error(Objective):
    """Mean squared residual."""

    surface_kind: ClassVar[str] = "denoiser"

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        return output.flatten(1).pow(2).mean(1)


@final
@dataclass(frozen=True)
class _Drawn(Surface):
    """A surface at the noise and timesteps of the step: the attack meets what the loss will."""

    surface: Surface
    seeds: Seeds

    @property
    def domain(self) -> Domain:
        return self.surface.domain

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        return self.surface(x, self.seeds)


@dataclass(frozen=True)
class _Step:
    """Losses of one step, a pure function of its number."""

    spec: DenoiserLora
    target: Target
    images: Batch
    seed: int

    def __call__(self, step: int, state: dict[str, float]) -> Losses:
        size = self.spec.schedule.batch_size
        rows = batch_rows(len(self.images), size, seed=self.seed, step=step)
        seeds = sample_seeds(self.seed, rows.tolist(), "residual", step)
        x = self.images[rows]
        threat = ThreatModel(ball=ball(self.spec.norm, float(self.spec.epsilon)))
        problem = Problem(_Drawn(self.target.surface, seeds), _Error(), threat, x, seeds)
        attacked = self.spec.inner.perturb(x, problem).detach()
        residual = self.target.surface(torch.cat([x, attacked]), [*seeds, *seeds])
        clean, robust = residual.flatten(1).pow(2).mean(1).chunk(2)
        share = float(self.spec.clean)
        return {
            "total": share * clean.mean() + (1 - share) * robust.mean(),
            "clean": clean.mean(),
            "robust": robust.mean(),
        }
