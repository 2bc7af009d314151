"""Pictures saved as JPEG and read again."""

import io
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Final, Literal, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loricate.basics.errors import ShapeError
from loricate.basics.spec import Range
from loricate.core.defense import InputDefense
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch, Images
from loricate.defenses._bpda import substitute
from loricate.defenses._smooth_jpeg import smooth_jpeg

__all__ = ["JPEG"]

_MODES: Final = {1: "L", 3: "RGB"}


@final
@dataclass(frozen=True, kw_only=True)
class JPEG(InputDefense):
    """A real JPEG round trip, with the color planes halved as cameras and browsers do.

    Args:
        quality: Quality setting of libjpeg, from 1 to 95.
        bpda: The backward pass. ``"smooth"`` is that of the same codec with a differentiable
            rounding, ``"identity"`` pretends that nothing happened.

    Source: the cubic rounding of Shin & Song 2017 [shin2017]. Deviates: made continuous, with a
    slope that never vanishes, so that a coefficient rounded to zero can come back.
    """

    quality: Annotated[int, Range("an integer from 1 to 95", int, 1, 95)] = 75
    bpda: Literal["smooth", "identity"] = "smooth"

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Pictures as read back from their files."""
        if x.ndim != 4 or x.shape[1] not in _MODES:
            raise ShapeError("pictures of 1 or 3 channels", tuple(x.shape))
        saved = _round_trip(x.detach(), self.quality)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return saved
        surrogate = x if self.bpda == "identity" else smooth_jpeg(x, _tables(self.quality))
        return substitute(saved, surrogate)


def _round_trip(x: Images, quality: int) -> Images:
    levels = (x * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    pixels = levels.movedim(1, -1).numpy()
    read = np.stack([_reread(picture, quality) for picture in pixels])
    return torch.from_numpy(read).movedim(-1, 1).to(x) / 255


def _reread(picture: np.ndarray, quality: int) -> np.ndarray:
    channels = picture.shape[-1]
    image = Image.fromarray(picture.squeeze(-1) if channels == 1 else picture, _MODES[channels])
    with Image.open(_encoded(image, quality)) as read:
        return np.array(read).reshape(picture.shape)


def _encoded(image: Image.Image, quality: int) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return file


@cache
def _tables(quality: int) -> tuple[Tensor, Tensor]:
    """Quantization tables of luminance and color, as libjpeg writes them."""
    with Image.open(_encoded(Image.new("RGB", (8, 8)), quality)) as probe:
        tables = probe.quantization  # type: ignore[attr-defined]
    luminance, color = (torch.tensor(tables[index]).view(8, 8) for index in (0, 1))
    return luminance, color
