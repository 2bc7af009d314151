"""Pull the edited picture to a given pattern, end to end."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from loricate.basics.spec import Count
from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.objectives.latent_target import LatentTarget

__all__ = ["EditTarget"]


@final
@dataclass(frozen=True, kw_only=True)
class EditTarget(Objective):
    """Minus the mean squared error between the edit and a pattern.

    The gradient runs through encoder, every denoising step of the attacked sampler and decoder.
    That sampler is shorter than the deployed one; average its draws with ``eot_samples``.

    Args:
        task: ``"edit"`` is image to image, ``"inpaint"`` repaints around the middle.
        pattern: Target picture, as in ``latent_target``.
        period: Side of a checker field in pixels.

    Source: the diffusion attack of Salman et al. 2023 [photoguard2023], section 3.2, which takes
    4 steps and averages 10 draws.
    """

    task: Literal["edit", "inpaint"] = "edit"
    pattern: Literal["gray", "checker"] = "gray"
    period: Count = 4

    @property
    def surface_kind(self) -> str:  # type: ignore[override]
        """That of the task."""
        return self.task

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """The pattern."""
        return LatentTarget(pattern=self.pattern, period=self.period).image(x)

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Minus the mean squared error of each edit."""
        return -(output - reference).flatten(1).pow(2).mean(1)
