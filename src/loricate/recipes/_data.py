"""Pictures to train on and pictures to be judged by, which never meet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.core.shapes import Images
from loricate.evaluation.subjects import Pictures

__all__ = ["calibration_captions", "calibration_images", "held_out_pictures"]

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_HELD_OUT_SHARE = 5  # every fifth picture of a folder is held out


def calibration_images(model: Path, folder: Path | None, side: int) -> Images:
    """Pictures to train on: those of the model, or four in five of a folder.

    Args:
        model: Folder of the model; an embedded one brings its own.
        folder: Pictures of the user, or ``None``.
        side: Height and width wanted.

    Returns:
        Pixels in [0, 1].

    Raises:
        ConfigError: There are no pictures.
    """
    if folder is None:
        return _shipped(model, "calibration")[0]
    files = [f for i, f in enumerate(_files(folder)) if i % _HELD_OUT_SHARE]
    return _read(files, folder, side)


def calibration_captions(model: Path) -> tuple[str, ...]:
    """Captions of the model's calibration pictures, each once.

    Args:
        model: Folder of an embedded model.

    Raises:
        ConfigError: The model brings no pictures.
    """
    return tuple(dict.fromkeys(_shipped(model, "calibration")[1]))


def held_out_pictures(model: Path, folder: Path | None, side: int) -> Pictures:
    """Pictures to be judged by: the model's held-out ones, or one in five of a folder.

    A picture's prompt is the text file beside it, or its name.

    Args:
        model: Folder of the model.
        folder: Pictures of the user, or ``None``.
        side: Height and width wanted.

    Returns:
        Pictures with prompts.

    Raises:
        ConfigError: There are no pictures.
    """
    if folder is None:
        images, prompts = _shipped(model, "test")
        return Pictures(images, tuple(prompts))
    files = [f for i, f in enumerate(_files(folder)) if i % _HELD_OUT_SHARE == 0]
    return Pictures(_read(files, folder, side), tuple(map(_prompt, files)))


def _shipped(model: Path, name: str) -> tuple[Images, list[str]]:
    path = model / "images" / f"{name}.npz"
    if not path.is_file():
        expected = f"a folder of pictures, since {str(model)!r} brings none"
        raise ConfigError(ConfigProblem(key="images", expected=expected, got=None))
    with np.load(path, allow_pickle=False) as table:
        images = torch.from_numpy(table["images"]).permute(0, 3, 1, 2).float() / 255
        return images.contiguous(), [str(text) for text in table["captions"]]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def _read(files: Sequence[Path], folder: Path, side: int) -> Images:
    if len(files) < 2:
        expected = f"a folder with at least ten pictures ({', '.join(_SUFFIXES)})"
        raise ConfigError(ConfigProblem(key="images", expected=expected, got=str(folder)))
    return torch.stack([_picture(path, side) for path in files])


def _picture(path: Path, side: int) -> torch.Tensor:
    image = Image.open(path).convert("RGB")
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    square = image.crop((left, top, left + short, top + short))
    levels = np.asarray(square.resize((side, side), Image.Resampling.LANCZOS), dtype=np.float32)
    return torch.from_numpy(levels / 255).permute(2, 0, 1)


def _prompt(path: Path) -> str:
    text = path.with_suffix(".txt")
    return text.read_text().strip() if text.is_file() else path.stem.replace("_", " ")
