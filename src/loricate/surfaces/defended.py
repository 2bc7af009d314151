"""A surface behind an input defense."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from loricate.core.defense import InputDefense
from loricate.core.domain import Domain
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.core.surface import Surface

__all__ = ["DefendedSurface", "defended"]


@final
@dataclass(frozen=True)
class DefendedSurface(Surface):
    """Preprocessing, then a surface; gradients see the defense's declared backward pass.

    Args:
        surface: What the preprocessed input reaches.
        defenses: Applied in order.
    """

    surface: Surface
    defenses: tuple[InputDefense, ...]

    @property
    def domain(self) -> Domain:
        """That of the surface behind."""
        return self.surface.domain

    @property
    def is_random(self) -> bool:
        """Whether the surface or a defense draws."""
        return self.surface.is_random or any(d.is_random for d in self.defenses)

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Output for the preprocessed input."""
        for defense in self.defenses:
            x = defense(x, seeds)
        return self.surface(x, seeds)


def defended(surface: Surface, defenses: tuple[InputDefense, ...]) -> Surface:
    """The surface behind its preprocessing, or itself where there is none."""
    return DefendedSurface(surface, defenses) if defenses else surface
