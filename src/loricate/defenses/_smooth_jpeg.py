"""The JPEG codec as a differentiable map: its own arithmetic, with a rounding that has a slope."""

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from loricate.core.shapes import Images

__all__ = ["smooth_jpeg"]

_BLOCK: Final = 8
_SLOPE: Final = 0.3  # least slope of the rounding; of 0 to 1, attacks get farthest with it
_TO_YCC: Final = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]],
    dtype=torch.float64,
)
_COSINES: Final = torch.tensor(
    [
        [
            math.sqrt((2 if k else 1) / _BLOCK) * math.cos(math.pi * (2 * n + 1) * k / 16)
            for n in range(_BLOCK)
        ]
        for k in range(_BLOCK)
    ],
    dtype=torch.float64,
)


def smooth_jpeg(x: Images, tables: tuple[Tensor, Tensor]) -> Images:
    """A JPEG round trip whose gradient says which changes the codec keeps.

    Args:
        x: Pixels in [0, 1], of 1 or 3 channels.
        tables: Quantization of luminance and of color.

    Returns:
        Nearly the pictures a codec returns, not clipped, differentiable in ``x``.
    """
    height, width = x.shape[-2:]
    # libjpeg repeats the border up to whole blocks of the halved color planes.
    border = (0, -width % (2 * _BLOCK), 0, -height % (2 * _BLOCK))
    levels = pad(x, border, mode="replicate") * 255 - 128
    coded = _quantized(levels, tables[0]) if x.shape[1] == 1 else _color(levels, tables)
    return (coded[..., :height, :width] + 128) / 255


def _color(levels: Images, tables: tuple[Tensor, Tensor]) -> Images:
    to_ycc = _TO_YCC.to(levels)
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, levels)
    luminance = _quantized(ycc[:, :1], tables[0])
    halved = _quantized(avg_pool2d(ycc[:, 1:], 2), tables[1])
    color = interpolate(halved, scale_factor=2, mode="bilinear")
    back = torch.linalg.inv(_TO_YCC).to(levels)
    return torch.einsum("ij,njhw->nihw", back, torch.cat([luminance, color], 1))


def _quantized(plane: Images, table: Tensor) -> Images:
    cosines, steps = _COSINES.to(plane), table.to(plane).unsqueeze(1)
    blocks = plane.unflatten(-1, (-1, _BLOCK)).unflatten(-3, (-1, _BLOCK))
    spectrum = torch.einsum("ki,lj,...aibj->...akbl", cosines, cosines, blocks)
    kept = _soft_round(spectrum / steps) * steps
    return torch.einsum("ki,lj,...akbl->...aibj", cosines, cosines, kept).reshape(plane.shape)


def _soft_round(x: Tensor) -> Tensor:
    # Nearly flat at the levels, steep between them, and continuous: the cubic spans what the
    # line leaves of each step.
    nearest = x.round().detach()
    offset = x - nearest
    return nearest + _SLOPE * offset + 4 * (1 - _SLOPE) * offset**3
