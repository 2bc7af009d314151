"""Where inputs live, and what survives being stored there."""

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch

from loricate.basics.errors import NumericalError, ShapeError
from loricate.core.balls import Ball
from loricate.core.shapes import Batch, PerSample

__all__ = ["EMBEDDINGS", "PIXELS", "Domain"]

_LEVELS: Final = 255
_GRID_TOLERANCE: Final = 1e-3  # in gray levels: far above float32 rounding, far below half a level


@dataclass(frozen=True)
class Domain:
    """The box that valid inputs fill.

    Args:
        kind: What the numbers are.
        lower: Smallest valid value.
        upper: Largest valid value.
    """

    kind: Literal["pixels", "latent", "embedding"]
    lower: float
    upper: float

    def require(self, x: Batch) -> None:
        """Refuse what is not a finite float batch inside the box.

        Args:
            x: Candidate inputs.

        Raises:
            ShapeError: ``x`` is empty or not floating point.
            NumericalError: ``x`` holds NaN, infinity or values outside the box.
        """
        if not torch.is_floating_point(x) or x.ndim < 2 or x.shape[0] == 0:
            raise ShapeError(
                "a non-empty floating-point batch",
                (str(x.dtype), tuple(x.shape)),
                hint="divide 8-bit images by 255 and add the batch dimension",
            )
        if not bool(torch.isfinite(x).all()):
            raise NumericalError(f"{self.kind} hold NaN or infinity")
        low, high = float(x.min()), float(x.max())
        if low < self.lower or high > self.upper:
            raise NumericalError(
                f"{self.kind} lie in [{low:.4g}, {high:.4g}], not in [{self.lower}, {self.upper}]",
                hint="rescale the images to [0, 1]" if self.kind == "pixels" else None,
            )

    def clip(self, x: Batch) -> Batch:
        """Nearest point of the box."""
        return x.clamp(self.lower, self.upper)

    def on_grid(self, x: Batch) -> PerSample:
        """Which samples are 8-bit pictures, as booleans."""
        levels = x * _LEVELS
        return ((levels - levels.round()).abs() < _GRID_TOLERANCE).flatten(1).all(1)

    def rounded(self, z: Batch, center: Batch, ball: Ball) -> Batch:
        """What is left of ``z`` after saving it with 8 bits; ``z`` itself off the pixel grid.

        Every pixel goes to its nearest gray level, or to the next one towards the original where
        the nearest would leave the ball. Originals that are not 8-bit pictures have no saved form
        to respect and are left alone.

        Args:
            z: Points of the ball and the box.
            center: Originals.
            ball: The budget that saving must not break.

        Returns:
            Saved pictures, at most one level from ``z`` and inside the ball.
        """
        if self.kind != "pixels":
            return z
        original = (center * _LEVELS).round()
        levels = z * _LEVELS - original
        # A level is not lost to float32 error.
        timid = torch.trunc(levels + levels.sign() * _GRID_TOLERANCE)
        bold, timid, start = ((original + each) / _LEVELS for each in (levels.round(), timid, 0))
        saved = ball.prefer(bold, timid, start)
        mask = self.on_grid(center).view(-1, *(1,) * (z.ndim - 1))
        return torch.where(mask, saved, z)


PIXELS = Domain("pixels", 0.0, 1.0)

EMBEDDINGS = Domain("embedding", -math.inf, math.inf)
"""Token embeddings: nothing bounds them but the ball of the threat."""
