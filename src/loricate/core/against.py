"""An objective whose reference is at hand already."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["Against"]


@final
@dataclass(frozen=True, kw_only=True)
class Against(Objective):
    """Outputs compared with given ones, say of the frozen base instead of the attacked model.

    Args:
        objective: How they are compared.
        given: Outputs to compare with, one row a sample.
    """

    surface_kind: ClassVar[str] = "any"

    objective: Objective
    given: Tensor

    def __post_init__(self) -> None:
        """A tensor is no spec field; there is nothing else to check."""

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """The given outputs."""
        return self.given

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """As the objective compares."""
        return self.objective.value(output, reference)
