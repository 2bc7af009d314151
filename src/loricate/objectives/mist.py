"""Pull the encoding to a pattern and make the denoiser fail, at once."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from loricate.basics.spec import Count, Weight
from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.objectives.latent_target import LatentTarget

__all__ = ["Mist"]


@final
@dataclass(frozen=True, kw_only=True)
class Mist(Objective):
    """Minus the distance of the latents to a pattern's, plus the denoising loss.

    ``denoising_weight * mean |eps_theta - eps|^2 - latent_weight * mean |z - z_T|^2``. The surface
    yields latents and noise errors, half of the channels each.

    Args:
        latent_weight: Of the textural term; 0 leaves AdvDM.
        denoising_weight: Of the semantic term; 0 leaves the targeted encoder attack.
        pattern: Target picture, as in ``latent_target``.
        period: Side of a checker field in pixels.

    Source: Mist, Liang and Wu 2023 [liang2023], the fused mode. Deviates: both terms are means
    over coordinates, so that weights do not depend on the size of the picture; a checkerboard
    stands for the target picture of that work.
    """

    surface_kind: ClassVar[str] = "latent_and_residual"

    latent_weight: Weight = 1.0
    denoising_weight: Weight = 1.0
    pattern: Literal["gray", "checker"] = "checker"
    period: Count = 4

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """Latents of the pattern."""
        target = LatentTarget(pattern=self.pattern, period=self.period).image(x)
        return surface(target, seeds).chunk(2, dim=1)[0].detach()

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Weighted difference of the two errors of each sample."""
        latents, residual = output.chunk(2, dim=1)
        away = (latents - reference).flatten(1).pow(2).mean(1)
        failure = residual.flatten(1).pow(2).mean(1)
        return self.denoising_weight * failure - self.latent_weight * away
