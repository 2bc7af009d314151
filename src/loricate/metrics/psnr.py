"""Peak signal-to-noise ratio."""

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.core.metric import Metric
from loricate.core.shapes import PerSample
from loricate.metrics._inputs import require_alike

__all__ = ["PSNR"]


@final
@dataclass(frozen=True, kw_only=True)
class PSNR(Metric):
    """Peak signal-to-noise ratio in dB, for pictures whose peak is 1.

    Symmetric; infinite for identical pictures. The mean over samples is the mean of their
    decibels, not the decibels of the mean error.
    """

    identical: ClassVar[float] = math.inf
    is_symmetric: ClassVar[bool] = True

    def __call__(self, output: Tensor, reference: Tensor) -> PerSample:
        """Decibels of each sample; more is closer."""
        require_alike(output, reference)
        return -10 * (output - reference).flatten(1).pow(2).mean(1).log10()
