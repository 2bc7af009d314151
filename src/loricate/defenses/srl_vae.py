"""Low-rank adapters of encoder and decoder that reconstruct attacked pictures (SRL-VAE)."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.spec import PixelLength, Weight
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.generators import Seeds, sample_seeds
from loricate.core.objective import Objective
from loricate.core.problem import Problem
from loricate.core.shapes import Batch, Images, PerSample
from loricate.core.surface import Surface
from loricate.core.threat import ThreatModel
from loricate.defenses._adapter_defense import AdapterDefense
from loricate.defenses._target import Reference, Target, augmented, batch_rows
from loricate.defenses._training import Losses, LossesOfStep
from loricate.surfaces.attach import Attached

__all__ = ["SrlVae"]

_TINY = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class SrlVae(AdapterDefense):
    """Min-max of the reconstruction error, with latents held near the frozen encoder's.

    Minimizes ``max MSE(D(E(x + delta)), x) / MSE_0 + originality * drift(E(x))^2``: MSE_0 is the
    frozen autoencoder's error on clean pictures, drift the distance to the frozen latents over
    their spread. The surface of the target is the autoencoder, its ``encoder`` the first half.

    Args:
        inner: Attack of the training; differ from the one used to evaluate.
        norm: Norm of its ball.
        epsilon: Its radius in pixel units.
        originality: Weight of the latents' drift.

    Source: SRL-VAE [srlvae2025]. Deviates: low-rank, without LPIPS, whose weights are not
    shipped, and with terms normalized by the frozen model's.
    """

    inner: Attack
    norm: Literal["linf", "l2"] = "linf"
    epsilon: PixelLength = 8 / 255
    originality: Weight = 1.0

    def losses(self, target: Target, attached: Attached, images: Images, seed: int) -> LossesOfStep:
        """Reconstruction error under attack, and drift of clean latents."""
        encoder = target.encoder
        if encoder is None:
            expected = "a target with the surface of its encoder"
            raise ConfigError(ConfigProblem(key="encoder", expected=expected, got=None))
        with torch.no_grad(), attached.off():
            latents = Reference.of(encoder, images)
            outputs = torch.cat([target.surface(c, [0] * len(c)) for c in images.split(64)])
            error = max(float((outputs - images).pow(2).mean()), _TINY)
        return _Step(self, target.surface, encoder, attached, images, latents, error, seed)


@final
@dataclass(frozen=True, kw_only=True)
class _Error(Objective):
    """Mean squared distance of the reconstruction from the clean picture."""

    surface_kind: ClassVar[str] = "vae"

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        return x

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        return (output - reference).flatten(1).pow(2).mean(1)


@dataclass(frozen=True)
class _Step:
    """Losses of one step, a pure function of its number."""

    spec: SrlVae
    surface: Surface
    encoder: Surface
    attached: Attached
    images: Images
    latents: Reference
    error: float
    seed: int

    def __call__(self, step: int, state: dict[str, float]) -> Losses:
        size = self.spec.schedule.batch_size
        rows = batch_rows(len(self.images), size, seed=self.seed, step=step)
        x, zeros = augmented(self.images[rows], self.seed, step), [0] * len(rows)
        threat = ThreatModel(ball=ball(self.spec.norm, float(self.spec.epsilon)))
        seeds = sample_seeds(self.seed, rows.tolist(), "inner", step)
        problem = Problem(self.surface, _Error(), threat, x, seeds)
        attacked = self.spec.inner.perturb(x, problem).detach()
        robust = (self.surface(attacked, zeros) - x).pow(2).mean() / self.error
        with torch.no_grad(), self.attached.off():
            frozen = self.encoder(x, zeros)
        drift = self.latents.drift(self.encoder(x, zeros), frozen).mean()
        return {
            "total": robust + self.spec.originality * drift,
            "robust": robust,
            "drift": (drift + _TINY).sqrt(),
        }
