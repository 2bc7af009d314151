"""Derail the edited picture, end to end."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.core.objective import Objective
from loricate.core.shapes import PerSample

__all__ = ["EditShift"]


@final
@dataclass(frozen=True, kw_only=True)
class EditShift(Objective):
    """Mean squared error between the edit and the clean edit of the same sampler noise.

    The gradient runs through encoder, every denoising step of the attacked sampler and decoder.

    Source: the diffusion attack of Salman et al. 2023 [photoguard2023], section 3.2; deviates:
    untargeted, and away from the clean edit instead of towards a target.
    """

    surface_kind: ClassVar[str] = "edit"

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Mean squared error of each edit."""
        return (output - reference).flatten(1).pow(2).mean(1)
