"""Make the prompt describe given pictures, as the denoiser sees it."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["DiffusionClassifier"]


@final
@dataclass(frozen=True, kw_only=True)
class DiffusionClassifier(Objective):
    """Minus the mean squared error of denoising a target picture under the prompt.

    The surface holds the pictures. No classifier is needed: the denoiser itself tells how likely
    it is to draw the picture, say of a concept that was erased.

    Source: UnlearnDiffAtk [unlearndiffatk2024], equation 6. Deviates: negated, to be maximized;
    evenly spread noise levels at once, where that takes them one after the other.
    """

    surface_kind: ClassVar[str] = "denoising"

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """No error at all."""
        return torch.zeros(len(x), 1)

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Minus the mean squared error of each prompt."""
        return -output.flatten(1).pow(2).mean(1)
