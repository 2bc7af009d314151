"""A complete model folder with random weights, small enough for every test."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loricate.families.sd15 import SD15

__all__ = ["smooth_pictures", "write_tiny_model"]

_WAVES = 3


def write_tiny_model(folder: Path, *, n_calibration: int = 24, n_test: int = 12) -> Path:
    """Write ``SD15.tiny()`` as a diffusers folder that brings its own pictures.

    Args:
        folder: Where to; made if it is not there.
        n_calibration: Pictures to train on.
        n_test: Held-out pictures.

    Returns:
        The folder, as ``loricate harden`` takes it.
    """
    family = SD15.tiny()
    family.pipe.save_pretrained(folder)
    side = family.image_size
    _write_pictures(folder / "images" / "calibration.npz", n_calibration, side, seed=1)
    _write_pictures(folder / "images" / "test.npz", n_test, side, seed=2)
    return folder


def smooth_pictures(n: int, side: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """Pictures made of a few plane waves, so that neighboring pixels resemble each other.

    Args:
        n: How many.
        side: Height and width in pixels.
        seed: Which.

    Returns:
        Gray levels, (n, side, side, 3).
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:side, 0:side] / side
    waves = rng.uniform(-3, 3, (3, n, _WAVES, 3, 1, 1))
    phases = waves[0] * rows + waves[1] * columns + waves[2]
    levels = np.sin(2 * np.pi * phases).sum(1) / (2 * _WAVES) + 0.5
    return np.asarray((levels * 255).round().astype(np.uint8).transpose(0, 2, 3, 1))


def _write_pictures(path: Path, n: int, side: int, *, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    captions = np.array([f"picture {index} of waves" for index in range(n)])
    np.savez_compressed(path, images=smooth_pictures(n, side, seed=seed), captions=captions)
