"""The map that is attacked."""

from abc import ABC, abstractmethod

from torch import Tensor

from loricate.core.domain import Domain
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch

__all__ = ["Surface"]


class Surface(ABC):
    """A differentiable map from a domain, with its randomness made explicit.

    Everything deployed is inside: adapter, preprocessing, sampler. So an adaptive attack is an
    ordinary attack on the defended surface.
    """

    @property
    @abstractmethod
    def domain(self) -> Domain:
        """Where inputs live."""

    @property
    def is_random(self) -> bool:
        """Whether the output depends on the seeds."""
        return False

    @abstractmethod
    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Outputs of a batch; equal seeds give equal outputs.

        Args:
            x: Inputs in the domain.
            seeds: One a sample; ignored where nothing is random.

        Returns:
            One row a sample, differentiable in ``x``.
        """
