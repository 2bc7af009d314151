"""What an attack on fine-tuning data looks through."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

from loricate.basics.spec import Count, Length, Spec
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.core.surface import Surface

__all__ = ["FineTuneSettings", "Readout", "Surrogate"]

Readout = Literal["residual", "noise", "gated"]
"""Predicted minus added noise; predicted noise and latents; the mean gate before those."""


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings(Spec):
    """How a user fine-tunes a denoiser on a few pictures.

    Args:
        rank: Rank of the adapter in every attention layer.
        steps: Optimizer steps.
        learning_rate: Of AdamW, constant.
        batch_size: Draws of picture, timestep and noise a step.

    Source: rank and optimizer of the fine-tuning that ACE attacks, Zheng et al. 2023 [ace2023].
    """

    rank: Count = 4
    steps: Count = 100
    learning_rate: Length = 1e-3
    batch_size: Count = 8


class Surrogate(Surface):
    """A surface that learns from what it is shown, as the victim's fine-tuning will.

    Its own weights change; those of the model it was made from never do.
    """

    @abstractmethod
    def adapt(self, x: Batch, seeds: Seeds) -> None:
        """Fine-tune a few steps further, on the whole batch as one set of training data.

        Args:
            x: Inputs to learn from, in the domain.
            seeds: One a sample; equal seeds give equal weights.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget what was learned."""
