"""Weight updates kept from stretching any direction too far."""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from loricate.basics.seeds import derive_seed
from loricate.basics.spec import Count, Radius
from loricate.core.defense import Regularizer

__all__ = ["SpectralPenalty"]

_TINY: Final = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class SpectralPenalty(Regularizer):
    """Sum over layers of the squared excess of the update's spectral norm over its limit.

    The limit is a share of the spectral norm of the layer's weight; zero while every update stays
    within it. Norms come from power iteration whose start depends on the shape alone, so equal
    weights give equal penalties; they are at most the true norms.

    Args:
        limit: Spectral norm that is free, as a share of the weight's.
        iterations: Rounds of power iteration.

    Source: power iteration with one pair of vectors held fixed in the gradient, Miyato et al. 2018
    [miyato2018], section 2.1.
    """

    limit: Radius = 0.1
    iterations: Count = 20

    def penalty(self, base: dict[str, Tensor], updates: dict[str, Tensor]) -> Tensor:
        """Squared relative excess, summed over layers."""
        excess = [
            relu(self._norm(update) / self._norm(base[at]).clamp(min=_TINY) - self.limit)
            for at, update in updates.items()
        ]
        return torch.stack(excess).square().sum()

    def _norm(self, matrix: Tensor) -> Tensor:
        with torch.no_grad():
            right = _start(matrix)
            for _ in range(self.iterations):
                left = normalize(matrix @ right, dim=0)
                right = normalize(matrix.mT @ left, dim=0)
        return left @ matrix @ right


def _start(matrix: Tensor) -> Tensor:
    columns = matrix.shape[1]
    generator = torch.Generator().manual_seed(derive_seed(0, "power iteration", columns))
    return normalize(torch.randn(columns, generator=generator), dim=0).to(matrix)
