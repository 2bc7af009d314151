"""Inflate the noise predicted at the first step of an edit."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["EarlyNoise"]


@final
@dataclass(frozen=True, kw_only=True)
class EarlyNoise(Objective):
    """Squared length of the noise predicted where the sampler begins.

    One pass of the denoiser a step, and no noise to compare with: an edit that starts wrong does
    not recover. Where the surface repaints, its masks are drawn with the seeds, so average several.

    Args:
        task: ``"edit"`` is image to image; ``"inpaint"`` averages over several masks.

    Source: DiffusionGuard, Choi et al. 2025 [diffusionguard2025], equation 4. Deviates: edits of
    less than full strength begin below the last timestep, where pictures are still seen; and masks
    are drawn, not grown from one.
    """

    task: Literal["edit", "inpaint"] = "edit"

    @property
    def surface_kind(self) -> str:  # type: ignore[override]
        """The first step of the task."""
        return "early_denoiser" if self.task == "edit" else "early_inpaint"

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """Nothing."""
        return x.new_zeros(len(x))

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Squared length of each prediction."""
        return output.flatten(1).pow(2).sum(1)
