import math

import numpy as np
import pytest
import torch

from loricate.basics.errors import ShapeError
from loricate.metrics.ssim import SSIM


def _pictures(rng: np.random.Generator, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    a = rng.random(shape)
    b = np.clip(a + rng.normal(0, 0.1, shape), 0, 1)
    return torch.from_numpy(a), torch.from_numpy(b)


def _slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """The paper's formula, one window at a time."""
    side = min(11, *a.shape) - (min(11, *a.shape) + 1) % 2
    axis = [math.exp(-((i - side // 2) ** 2) / (2 * 1.5**2)) for i in range(side)]
    window = np.outer(axis, axis) / sum(axis) ** 2
    values = []
    for row in range(a.shape[0] - side + 1):
        for column in range(a.shape[1] - side + 1):
            here = slice(row, row + side), slice(column, column + side)
            mean_a, mean_b = (window * a[here]).sum(), (window * b[here]).sum()
            spread_a, spread_b = a[here] - mean_a, b[here] - mean_b
            variances = (window * spread_a**2).sum() + (window * spread_b**2).sum()
            covariance = (window * spread_a * spread_b).sum()
            luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
            values.append(luminance * (2 * covariance + 9e-4) / (variances + 9e-4))
    return float(np.mean(values))


@pytest.mark.parametrize("size", [(16, 14), (12, 12), (11, 20), (8, 30), (5, 7), (1, 4)])
def test_equals_the_formula_window_by_window(size: tuple[int, int], rng) -> None:
    a, b = _pictures(rng, 2, 3, *size)
    expected = [
        np.mean([_slow_ssim(a[i, c].numpy(), b[i, c].numpy()) for c in range(3)]) for i in range(2)
    ]
    assert SSIM()(a, b).tolist() == pytest.approx(expected, abs=1e-12)


def test_is_one_for_identical_pictures_and_symmetric(rng) -> None:
    a, b = (each.float() for each in _pictures(rng, 2, 3, 16, 16))
    assert SSIM()(a, a).tolist() == [1.0, 1.0]
    assert torch.equal(SSIM()(a, b), SSIM()(b, a))


def test_flat_pictures_have_a_closed_form() -> None:
    # Constant pictures have no variance: only the luminance term is left.
    a, b = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.8)
    expected = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    assert SSIM()(a, b).item() == pytest.approx(expected, abs=1e-4)


def test_pictures_have_four_dimensions() -> None:
    with pytest.raises(ShapeError):
        SSIM()(torch.zeros(3, 16, 16), torch.zeros(3, 16, 16))
