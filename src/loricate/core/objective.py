"""What an attack maximizes."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from loricate.basics.spec import Spec
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["Objective"]


@dataclass(frozen=True, kw_only=True)
class Objective(Spec):
    """One value a sample, always to be maximized; the goal's sign lives here.

    ``surface_kind`` names the surface of a family the objective reads.
    """

    registry_kind = "objectives"
    surface_kind: ClassVar[str]

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """What outputs are compared with: by default the output of the clean input.

        Args:
            surface: The attacked map.
            x: Clean inputs.
            seeds: One a sample, the same as for the outputs compared.

        Returns:
            A tensor without gradient.
        """
        return surface(x, seeds).detach()

    @abstractmethod
    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """How well an output serves the attacker.

        Args:
            output: Outputs of the attacked map.
            reference: What ``reference`` returned.

        Returns:
            One value a sample.
        """
