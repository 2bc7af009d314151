"""What an attack on fine-tuning data looks through."""

from abc import abstractmethod

from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.core.surface import Surface

__all__ = ["Surrogate"]


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
