"""Pull the hidden states of a prompt to those of another prompt."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["EmbeddingTarget"]


@final
@dataclass(frozen=True, kw_only=True)
class EmbeddingTarget(Objective):
    """Minus the squared distance to the hidden states of a prompt of the attacker's choice.

    The target is read by the attacked encoder itself, as an attacker who holds it would.

    Args:
        prompt: What the model should understand instead.

    Source: the text attack of MMA-Diffusion [mma2024]. Deviates: squared distance over the hidden
    states, where that takes the cosine of the pooled vectors.
    """

    surface_kind: ClassVar[str] = "text_encoder"

    prompt: str = "skull"

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """Hidden states of the target prompt."""
        return surface([self.prompt] * len(x), seeds).detach()  # type: ignore[arg-type]  # prompts

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Minus the squared distance of each prompt."""
        return -(output - reference).flatten(1).pow(2).sum(1)
