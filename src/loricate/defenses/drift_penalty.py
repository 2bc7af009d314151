"""Weight updates kept small."""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from loricate.core.defense import Regularizer

__all__ = ["DriftPenalty"]

_TINY: Final = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class DriftPenalty(Regularizer):
    """Mean over layers of the squared Frobenius norm of the update, relative to its weight.

    Zero for no update; 1 when every update is as large as its weight.

    Source: L2-SP of Li et al. 2018 [li2018], with layers made comparable.
    """

    def penalty(self, base: dict[str, Tensor], updates: dict[str, Tensor]) -> Tensor:
        """Mean relative squared size of the updates."""
        shares = [
            update.square().sum() / base[at].square().sum().clamp(min=_TINY)
            for at, update in updates.items()
        ]
        return torch.stack(shares).mean()
