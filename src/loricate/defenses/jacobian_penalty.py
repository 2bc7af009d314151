"""Weight updates kept from making any layer steeper."""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor
from torch.nn.functional import relu

from loricate.core.defense import Regularizer

__all__ = ["JacobianPenalty"]

_TINY: Final = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class JacobianPenalty(Regularizer):
    """Mean over layers of the squared logarithm by which the layer's Jacobian grew.

    The Jacobian J of a linear layer is its weight, and the mean of ``|J u|^2`` over normal u is its
    squared Frobenius norm; growth is the logarithm of that norm over the base's. Layers that
    became flatter cost nothing. Slopes of what lies between the layers are not seen: the contract
    of regularizers is about weights.

    Source: Jacobian regularization, Hoffman et al. 2019 [hoffman2019]. Deviates: layer
    by layer instead of end to end, so no input is needed and the mean over u is exact.
    """

    def penalty(self, base: dict[str, Tensor], updates: dict[str, Tensor]) -> Tensor:
        """Mean squared growth."""
        growths = [_growth(base[at], update) for at, update in updates.items()]
        return torch.stack(growths).square().mean()


def _growth(weight: Tensor, update: Tensor) -> Tensor:
    before, after = (w.square().sum().clamp(min=_TINY) for w in (weight, weight + update))
    return relu(0.5 * (after / before).log())
