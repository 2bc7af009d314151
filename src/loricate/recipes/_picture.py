"""One picture of a user, read strictly and written without loss."""

import io
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from loricate.basics.errors import ConfigError, ConfigProblem, UnsupportedError
from loricate.basics.files import write_atomically
from loricate.core.shapes import Images

__all__ = ["read_picture", "square", "write_picture"]

_MOST_PIXELS: Final = 64_000_000
_FIXES: Final = {
    "L": "it is gray",
    "LA": "it is gray with transparency",
    "RGBA": "it has transparency",
    "P": "it has a palette",
    "CMYK": "it is made for print",
    "1": "it has one bit a pixel",
}


def read_picture(path: Path, side: int) -> Images:
    """An 8-bit RGB picture, cropped to its central square and brought to a model's size.

    Args:
        path: A file that Pillow opens.
        side: Height and width wanted.

    Returns:
        One row of pixels in [0, 1], on the 8-bit grid.

    Raises:
        ConfigError: The file is no picture, or too large to be one.
        UnsupportedError: It is not 8-bit RGB; converting it would decide for the user what is
            attacked.
    """
    try:
        with Image.open(path) as image:
            _require_size(path, image)
            _require_rgb(path, image)
            levels = square(image, side)
    except (UnidentifiedImageError, OSError) as error:
        problem = ConfigProblem(key="INPUT", expected="a picture", got=f"{path} ({error})")
        raise ConfigError(problem) from error
    return torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255


def square(image: Image.Image, side: int) -> np.ndarray:
    """Levels of the central square at another size, (side, side, 3)."""
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    cropped = image.crop((left, top, left + short, top + short))
    if short != side:
        cropped = cropped.resize((side, side), Image.Resampling.LANCZOS)
    return np.array(cropped, dtype=np.uint8)


def write_picture(path: Path, images: Images) -> None:
    """Write the first of some pictures as PNG.

    Args:
        path: Destination, replaced atomically.
        images: Pixels in [0, 1]; they are clipped and rounded.
    """
    levels = (images[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def _require_size(path: Path, image: Image.Image) -> None:
    if image.width * image.height > _MOST_PIXELS:
        expected = f"a picture of at most {_MOST_PIXELS} pixels"
        got = f"{path} of {image.width} x {image.height}"
        raise ConfigError(ConfigProblem(key="INPUT", expected=expected, got=got))


def _require_rgb(path: Path, image: Image.Image) -> None:
    is_deep = _is_deep(image)
    if image.mode == "RGB" and not is_deep:
        return
    other = f"its mode is {image.mode}, such as that of 16-bit pictures"
    why = "it has 16 bits a channel" if is_deep else _FIXES.get(image.mode, other)
    raise UnsupportedError(
        f"the picture {str(path)!r}, as {why}",
        by="a model of 8-bit RGB",
        hint="convert it first, for example with Pillow: Image.open(a).convert('RGB').save(b)",
    )


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel; Pillow drops the lower ones unasked."""
    tiles = getattr(image, "tile", ())
    raw = " ".join(str(part) for tile in tiles for part in tile)
    return ";16" in raw or "I;16" in image.mode
