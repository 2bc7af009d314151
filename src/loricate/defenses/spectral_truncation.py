"""The article's procedure read literally: keep the top components of every weight."""

import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from loricate.basics.spec import Fraction01, Spec
from loricate.lowrank.rules import EnergyRank
from loricate.lowrank.svd import truncated_svd
from loricate.surfaces.attach import target_layers

__all__ = ["SpectralTruncation"]


@final
@dataclass(frozen=True, kw_only=True)
class SpectralTruncation(Spec):
    """Replaces each weight by its best approximation of a given energy; no training.

    Args:
        energy: Share of the squared singular values that every weight keeps.
    """

    registry_kind = "defenses"

    energy: Fraction01 = 0.99

    @torch.no_grad()
    def apply(self, module: nn.Module, prefixes: tuple[str, ...] = ("",)) -> nn.Module:
        """A copy with truncated weights.

        Args:
            module: Base; left as it is.
            prefixes: Paths below which weights are truncated.

        Returns:
            The copy.
        """
        twin = copy.deepcopy(module)
        for layer in target_layers(twin, prefixes).values():
            weight = layer.weight
            low = truncated_svd(weight.flatten(1), EnergyRank(float(self.energy))).dense()
            weight.copy_(low.view_as(weight))
        return twin
