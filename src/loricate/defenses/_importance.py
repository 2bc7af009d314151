"""Which components of an adapter the adversarial loss depends on."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loricate.surfaces.attach import LowRankUpdate
from loricate.surfaces.gated import GatedUpdate

__all__ = ["Importance"]

_SMOOTHING = 0.85


class Importance:
    """Smoothed sensitivity of the loss to each rank-one component.

    A component's sensitivity is the first-order change of the loss if it were removed: the sum
    over its column of ``B`` and row of ``A`` of parameter times gradient. It is smoothed over steps
    and multiplied by its smoothed deviation, so that a component is not dropped on one quiet batch.

    Source: AdaLoRA, Zhang et al. 2023 [adalora2023], equations 8 to 11. Deviates: the loss is the
    robust one, and the signed sum over a component replaces the mean of absolute entries.
    """

    def __init__(self, updates: Mapping[str, LowRankUpdate | GatedUpdate]) -> None:
        self._updates = updates
        self.level = {path: torch.zeros(u.rank) for path, u in updates.items()}
        self.spread = {path: torch.zeros(u.rank) for path, u in updates.items()}

    @torch.no_grad()
    def observe(self) -> None:
        """Take in the gradients of one step."""
        for path, update in self._updates.items():
            now = _sensitivity(update)
            deviation = (now - self.level[path]).abs()
            self.level[path].lerp_(now, 1 - _SMOOTHING)
            self.spread[path].lerp_(deviation, 1 - _SMOOTHING)

    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Worth of each component, by layer; its size before the loss has depended on any."""
        worth = {path: self.level[path] * self.spread[path] for path in self.level}
        if not any(bool(value.any()) for value in worth.values()):
            worth = {path: update.sizes().cpu() for path, update in self._updates.items()}
        return {path: value.double().numpy() for path, value in worth.items()}

    def state(self) -> dict[str, Tensor]:
        """Tensors that ``restore`` takes back."""
        level = {f"level.{path}": value for path, value in self.level.items()}
        return level | {f"spread.{path}": value for path, value in self.spread.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state``."""
        for path in self.level:
            self.level[path].copy_(state[f"level.{path}"])
            self.spread[path].copy_(state[f"spread.{path}"])


def _sensitivity(update: LowRankUpdate | GatedUpdate) -> Tensor:
    total = torch.zeros(update.rank)
    if update.b.grad is not None:
        total += (update.b * update.b.grad).sum(0).abs().cpu()
    if update.a.grad is not None:
        total += (update.a * update.a.grad).sum(1).abs().cpu()
    return total
