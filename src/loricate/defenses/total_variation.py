"""Pictures made of flat patches."""

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn.functional import pad

from loricate.basics.spec import Count, Length
from loricate.core.defense import InputDefense
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.defenses._bpda import substitute

__all__ = ["TotalVariation"]


@final
@dataclass(frozen=True, kw_only=True)
class TotalVariation(InputDefense):
    """The picture u of least ``|u - x|^2 / 2 + strength * TV(u)``, after a fixed number of steps.

    TV sums the length of the gradient over pixels, all channels together. The dual problem is
    climbed by accelerated projected gradients, and attacks differentiate through every step:
    exact, at the price of keeping them all in memory.

    Args:
        strength: Weight of the total variation, in pixel units.
        iterations: Steps of the minimization.

    Source: the model of Rudin, Osher & Fatemi 1992 [rudin1992]; the steps of Beck & Teboulle 2009
    [beck2009]; a defense since Guo et al. 2018 [guo2018]. Deviates: no random pixels
    are dropped, and the box is not imposed at every step, where it would cut gradients off.
    """

    strength: Length = 0.05
    iterations: Count = 30

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Pictures of less variation."""
        step, momentum = 1 / (8 * self.strength), 1.0  # 8 bounds the squared norm of the gradient
        dual = ahead = torch.zeros_like(_gradient(x))
        for _ in range(self.iterations):
            denoised = x - self.strength * _adjoint(ahead)
            moved = _within_unit_length(ahead + step * _gradient(denoised))
            faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = moved + (momentum - 1) / faster * (moved - dual)
            dual, momentum = moved, faster
        denoised = x - self.strength * _adjoint(dual)
        return substitute(denoised.detach().clamp(0, 1), denoised)


def _gradient(u: Tensor) -> Tensor:
    """Forward differences down and right, zero at the far borders; (2, *shape)."""
    down = pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
    right = pad(u[..., :, 1:] - u[..., :, :-1], (0, 1))
    return torch.stack([down, right])


def _adjoint(p: Tensor) -> Tensor:
    """Transpose of ``_gradient``: minus the divergence."""
    down, right = p[0, ..., :-1, :], p[1, ..., :, :-1]
    return (
        pad(down, (0, 0, 1, 0)) - pad(down, (0, 0, 0, 1)) + pad(right, (1, 0)) - pad(right, (0, 1))
    )


def _within_unit_length(p: Tensor) -> Tensor:
    """Nearest field whose arrows, over both directions and all channels, are at most 1 long."""
    return p * p.square().sum((0, 2), keepdim=True).clamp(min=1).rsqrt()
