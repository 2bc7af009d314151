"""Pictures out of focus."""

import math
from dataclasses import dataclass
from typing import Annotated, Final, final

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from loricate.basics.spec import Range
from loricate.core.defense import InputDefense
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.defenses._bpda import substitute

__all__ = ["Blur"]

_REACH: Final = 4  # in standard deviations: what lies beyond is below float32 rounding


@final
@dataclass(frozen=True, kw_only=True)
class Blur(InputDefense):
    """Convolve every channel with a Gaussian; pixels of the border are repeated outwards.

    Exactly differentiable, so attacks need no surrogate.

    Args:
        sigma: Standard deviation in pixels.
    """

    sigma: Annotated[float, Range("a number above 0 and at most 64", float, 0, 64, above=True)] = (
        1.0
    )

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Blurred pictures."""
        kernel = _gaussian(self.sigma, x)
        channels, margin = x.shape[1], kernel.numel() // 2
        padded = pad(x, (margin,) * 4, mode="replicate")
        for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
            weight = kernel.view(shape).expand(channels, *(-1,) * 3)
            padded = conv2d(padded, weight, groups=channels)
        # Weights sum to 1 up to rounding: white may end a hair above 1.
        return substitute(padded.detach().clamp(0, 1), padded)


def _gaussian(sigma: float, like: Tensor) -> Tensor:
    reach = max(1, math.ceil(_REACH * sigma))
    offsets = torch.arange(-reach, reach + 1, device=like.device, dtype=torch.float64)
    bell = torch.exp(-0.5 * (offsets / sigma).square())
    return (bell / bell.sum()).to(like.dtype)
