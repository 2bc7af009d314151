"""Pictures made smaller and larger again."""

from dataclasses import dataclass
from typing import Annotated, final

from torch.nn.functional import interpolate

from loricate.basics.spec import Range
from loricate.core.defense import InputDefense
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.defenses._bpda import substitute

__all__ = ["Resize"]


@final
@dataclass(frozen=True, kw_only=True)
class Resize(InputDefense):
    """Scale down and back up, which removes detail finer than the smaller grid.

    Bilinear with antialiasing both ways; exactly differentiable, so attacks need no surrogate.

    Args:
        factor: Side of the smaller picture over the side of the picture.
    """

    factor: Annotated[float, Range("a number above 0 and at most 1", float, 0, 1, above=True)] = 0.5

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Pictures without their finest detail."""
        height, width = x.shape[-2:]
        small = (max(1, round(height * self.factor)), max(1, round(width * self.factor)))
        for size in (small, (height, width)):
            x = interpolate(x, size, mode="bilinear", antialias=True)
        # Weights sum to 1 up to rounding: white may end a hair above 1, and clamping alone would
        # hide all gradient there.
        return substitute(x.detach().clamp(0, 1), x)
