"""Direct the predicted noise while a learned gate stays shut: the adaptive attack on a gate."""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from loricate.basics.spec import Weight
from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.objectives.directed_noise import DirectedNoise

__all__ = ["GateEvasion"]


@final
@dataclass(frozen=True, kw_only=True)
class GateEvasion(Objective):
    """The harm of ``directed_noise`` minus a penalty on the gate.

    A gated defense takes pictures for attacked where its gate opens, so the attacker holds it
    shut. The surface yields the mean gate in its first channel, then predicted noise and latents.

    Args:
        harm: What else is wanted.
        gate_weight: What a gate that is open costs, in units of the harm.

    Source: item E4 of our protocol, an adaptive variant per defense, after Tramèr et al. 2020
    [tramer2020]; the gate is that of LoRD [lord2026].
    """

    surface_kind: ClassVar[str] = "gated_fine_tuning"

    harm: DirectedNoise = field(default_factory=DirectedNoise)
    gate_weight: Weight = 1000.0

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """Latents of the pattern."""
        target = self.harm.target(x)
        return _parts(surface(target, seeds))[2].detach()

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Harm, less what the gate costs."""
        gate, noise, latents = _parts(output)
        harm = self.harm.value(torch.cat([noise, latents], dim=1), reference)
        return harm - self.gate_weight * gate.flatten(1).mean(1)


def _parts(output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    channels = (output.shape[1] - 1) // 2
    return output[:, :1], output[:, 1 : 1 + channels], output[:, 1 + channels : 1 + 2 * channels]
