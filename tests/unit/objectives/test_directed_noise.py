"""Directed noise and gate evasion: values by hand, and the sides they push to."""

from dataclasses import dataclass

import pytest
import torch

from loricate.core.domain import PIXELS
from loricate.core.surface import Surface
from loricate.objectives.directed_noise import DirectedNoise
from loricate.objectives.gate_evasion import GateEvasion
from loricate.objectives.latent_target import LatentTarget
from loricate.testing.surfaces import pictures

_X = pictures(2, size=8)


@dataclass(frozen=True)
class _Pixels(Surface):
    """Pixels as latents, half of them as noise; a constant gate in front if there is one."""

    gate: float | None = None
    domain = PIXELS

    def __call__(self, x, seeds):
        parts = [0.5 * x, x]
        if self.gate is not None:
            parts = [torch.full_like(x[:, :1], self.gate), *parts]
        return torch.cat(parts, dim=1)


def _value(objective, surface):
    reference = objective.reference(surface, _X, [0, 0])
    return objective.value(surface(_X, [0, 0]), reference)


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_the_value_by_hand(weight: float) -> None:
    target = LatentTarget(pattern="checker", period=2).image(_X)
    noise, latents = ((f * _X - target).square().flatten(1).sum(1) for f in (0.5, 1.0))
    found = _value(DirectedNoise(latent_weight=weight, period=2), _Pixels())
    assert torch.allclose(found, -(noise + weight * latents))


def test_an_open_gate_costs_its_weight_and_nothing_else_changes() -> None:
    harm = DirectedNoise(latent_weight=2.0)
    plain = _value(harm, _Pixels())
    for gate in (0.0, 0.25, 1.0):
        found = _value(GateEvasion(harm=harm, gate_weight=8.0), _Pixels(gate))
        assert torch.allclose(found, plain - 8.0 * gate)
