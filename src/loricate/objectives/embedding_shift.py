"""Move the hidden states of a prompt away from the clean ones."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.core.objective import Objective
from loricate.core.shapes import PerSample

__all__ = ["EmbeddingShift"]


@final
@dataclass(frozen=True, kw_only=True)
class EmbeddingShift(Objective):
    """Squared distance between what the denoiser sees and what it would see for the clean prompt.

    Over all places of the window, padding included: the denoiser attends to them too.

    Source: the inner problem of LEAF [leaf2025], equation 3. Deviates: hidden states, where LEAF
    takes the pooled vector, which Stable Diffusion 1.x never reads.
    """

    surface_kind: ClassVar[str] = "text_encoder"

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Squared distance of each prompt."""
        return (output - reference).flatten(1).pow(2).sum(1)
