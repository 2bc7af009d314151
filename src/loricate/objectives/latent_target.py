"""Pull the encoding to that of a given pattern."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from loricate.basics.spec import Count
from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["LatentTarget"]


@final
@dataclass(frozen=True, kw_only=True)
class LatentTarget(Objective):
    """Minus the squared distance between the encoding and a pattern's encoding.

    The target is encoded by the attacked encoder itself, as an attacker who holds it would.

    Args:
        pattern: ``"gray"`` pulls every picture to a flat one, ``"checker"`` to a repeated texture.
        period: Side of a checker field in pixels.

    Source: Salman et al. 2023 [photoguard2023], section 3.1; the repeated target of Mist
    [liang2023].
    """

    surface_kind: ClassVar[str] = "vae_encoder"

    pattern: Literal["gray", "checker"] = "checker"
    period: Count = 4

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """Encoding of the pattern."""
        return surface(self.image(x), seeds).detach()

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Minus the squared distance of each encoding."""
        return -(output - reference).flatten(1).pow(2).sum(1)

    def image(self, x: Batch) -> Batch:
        """The target picture, in the shape of ``x``."""
        if self.pattern == "gray":
            return torch.full_like(x, 0.5)
        rows, columns = (torch.arange(n, device=x.device) // self.period for n in x.shape[-2:])
        checker = (rows[:, None] + columns[None, :]) % 2
        return checker.to(x).expand_as(x)
