"""Move the encoding away from the clean one."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.core.objective import Objective
from loricate.core.shapes import PerSample

__all__ = ["LatentShift"]


@final
@dataclass(frozen=True, kw_only=True)
class LatentShift(Objective):
    """Squared distance between the encoding and the clean encoding.

    Its gradient at the clean input is exactly zero, so attacks must start elsewhere.

    Source: the untargeted encoder attack of Salman et al. 2023 [photoguard2023]; the inner
    problem of FARE [schlarmann2024], equation 3.
    """

    surface_kind: ClassVar[str] = "vae_encoder"

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Squared distance of each encoding."""
        return (output - reference).flatten(1).pow(2).sum(1)
