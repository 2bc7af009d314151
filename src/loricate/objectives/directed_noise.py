"""Pull the predicted noise to a fixed wrong target."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from loricate.basics.spec import Count, Weight
from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.objectives.latent_target import LatentTarget

__all__ = ["DirectedNoise"]


@final
@dataclass(frozen=True, kw_only=True)
class DirectedNoise(Objective):
    """Minus the squared distance between predicted noise and a pattern's latents.

    ``-(|noise_pred - z_T|^2 + latent_weight * |z - z_T|^2)``, z being the picture's own latents:
    one directed error, the same for every picture and timestep, which fine-tuning then learns
    to undo. The surface yields predicted noise and latents, half of the channels each.

    Args:
        latent_weight: 0 is ACE; above it, ACE+ pulls the latents to the same target.
        pattern: Target picture, as in ``latent_target``.
        period: Side of a checker field in pixels.

    Source: Zheng et al. 2023 [ace2023], ACE and ACE+. Deviates: patterns stand for the target
    picture of that work, and a sum of squares for its means.
    """

    surface_kind: ClassVar[str] = "fine_tuning"

    latent_weight: Weight = 0.0
    pattern: Literal["gray", "checker"] = "checker"
    period: Count = 4

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """Latents of the pattern."""
        return surface(self.target(x), seeds).chunk(2, dim=1)[1].detach()

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Minus the weighted squared distances."""
        noise, latents = (
            (part - reference).flatten(1).pow(2).sum(1) for part in output.chunk(2, dim=1)
        )
        return -(noise + self.latent_weight * latents)

    def target(self, x: Batch) -> Batch:
        """The target picture, in the shape of ``x``."""
        return LatentTarget(pattern=self.pattern, period=self.period).image(x)
