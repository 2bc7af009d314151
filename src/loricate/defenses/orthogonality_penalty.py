"""Weight updates kept from changing how neurons lie to each other."""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from loricate.core.defense import Regularizer

__all__ = ["OrthogonalityPenalty"]

_TINY: Final = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class OrthogonalityPenalty(Regularizer):
    """Mean over layers of the squared change of the Gram matrix of rows, relative to itself.

    Zero exactly where the update acts as an orthogonal map: all angles between neurons and all of
    their lengths are those of the base.

    Source: what orthogonal fine-tuning keeps, Qiu et al. 2023 [qiu2023]. Deviates: a
    penalty instead of a parametrization. Asking the factors themselves for orthonormal rows, as
    is done too, depends on how a product is split and is not met by the absence of an update.
    """

    def penalty(self, base: dict[str, Tensor], updates: dict[str, Tensor]) -> Tensor:
        """Mean relative squared change of the Gram matrices."""
        changes = [_change(base[at], update) for at, update in updates.items()]
        return torch.stack(changes).mean()


def _change(weight: Tensor, update: Tensor) -> Tensor:
    gram = weight @ weight.mT
    mixed = weight @ update.mT
    change = mixed + mixed.mT + update @ update.mT
    return change.square().sum() / gram.square().sum().clamp(min=_TINY)
