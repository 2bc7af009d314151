"""What is measured about outputs."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from loricate.basics.spec import Spec
from loricate.core.shapes import PerSample

__all__ = ["Metric"]


@dataclass(frozen=True, kw_only=True)
class Metric(Spec):
    """One value a sample from an output and the output it is compared with.

    ``identical`` is the value of a reference compared with itself, and ``is_symmetric`` says
    whether the two may change places.
    """

    registry_kind = "metrics"
    identical: ClassVar[float]
    is_symmetric: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, output: Tensor, reference: Tensor) -> PerSample:
        """Compare outputs with references, row by row.

        Args:
            output: Outputs under test.
            reference: What they should have been, of the same shape.

        Returns:
            One value a sample.
        """
