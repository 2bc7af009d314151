"""Structural similarity of pictures."""

from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from loricate.core.metric import Metric
from loricate.core.shapes import PerSample
from loricate.metrics._inputs import require_alike

__all__ = ["SSIM"]

_WINDOW: Final = 11
_SIGMA: Final = 1.5
_LUMINANCE: Final = 0.01**2
_CONTRAST: Final = 0.03**2


@final
@dataclass(frozen=True, kw_only=True)
class SSIM(Metric):
    """Mean structural similarity, for pictures in [0, 1]; 1 exactly for identical ones.

    Gaussian window of 11 x 11 pixels with sigma 1.5, each channel by itself, only where the
    window lies inside the picture. For pictures smaller than that the window shrinks to the
    largest odd size that fits. Symmetric and differentiable.

    Source: Wang et al. 2004 [wang2004], equation 13 and section III-C.
    """

    identical: ClassVar[float] = 1.0
    is_symmetric: ClassVar[bool] = True

    def __call__(self, output: Tensor, reference: Tensor) -> PerSample:
        """Similarity of each sample in [-1, 1]; more is closer."""
        require_alike(output, reference, ndim=4)
        window = _gaussian(output)
        mean_a, mean_b = _local_mean(output, window), _local_mean(reference, window)
        variance_a = _local_mean(output * output, window) - mean_a * mean_a
        variance_b = _local_mean(reference * reference, window) - mean_b * mean_b
        covariance = _local_mean(output * reference, window) - mean_a * mean_b
        luminance = (2 * mean_a * mean_b + _LUMINANCE) / (mean_a**2 + mean_b**2 + _LUMINANCE)
        structure = (2 * covariance + _CONTRAST) / (variance_a + variance_b + _CONTRAST)
        return (luminance * structure).flatten(1).mean(1)


def _gaussian(like: Tensor) -> Tensor:
    """Weights of the window along one axis; they sum to 1."""
    side = min(_WINDOW, *like.shape[-2:])
    reach = (side - 1) // 2
    offsets = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    weights = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    return weights / weights.sum()


def _local_mean(images: Tensor, weights: Tensor) -> Tensor:
    planes = images.flatten(0, 1).unsqueeze(1)
    columns = conv2d(planes, weights.view(1, 1, -1, 1))
    means = conv2d(columns, weights.view(1, 1, 1, -1))
    return means.view(*images.shape[:2], *means.shape[-2:])
