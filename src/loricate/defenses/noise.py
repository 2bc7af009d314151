"""Pictures with noise added."""

from dataclasses import dataclass
from typing import final

import torch

from loricate.basics.spec import Fraction01
from loricate.core.defense import InputDefense
from loricate.core.generators import Seeds, generators
from loricate.core.shapes import Batch
from loricate.defenses._bpda import substitute

__all__ = ["Noise"]


@final
@dataclass(frozen=True, kw_only=True)
class Noise(InputDefense):
    """Add Gaussian noise and clip to the box.

    Backward it is the identity, clipping included: a pixel that the noise saturates would
    otherwise have no gradient for this draw. Attackers average over draws (``eot_samples``).

    Args:
        sigma: Standard deviation in pixel units.

    Source: the noise that removes protective perturbations in Hönig et al. 2024 [hoenig2024];
    averaged gradients after Athalye et al. 2018 [athalye2018], section 4.2.
    """

    sigma: Fraction01 = 0.05

    @property
    def bpda(self) -> str:
        """The identity."""
        return "identity"

    @property
    def is_random(self) -> bool:
        """Whether there is any noise."""
        return self.sigma > 0

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Noisy pictures."""
        drawn = generators(seeds, "noise defense")
        rows = [torch.randn(x.shape[1:], generator=g) for g in drawn]
        noisy = x.detach() + self.sigma * torch.stack(rows).to(x)
        return substitute(noisy.clamp(0, 1), x)
