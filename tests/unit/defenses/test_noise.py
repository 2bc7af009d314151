import pytest
import torch

from loricate.basics.errors import ConfigError
from loricate.defenses.noise import Noise


def test_noise_has_the_size_it_says() -> None:
    x = torch.full((4, 3, 64, 64), 0.5, dtype=torch.float64)
    added = Noise(sigma=0.1)(x, [1, 2, 3, 4]) - x
    assert added.mean().abs() < 5 * 0.1 / added.numel() ** 0.5
    assert added.std() == pytest.approx(0.1, rel=0.02)


def test_saturated_pixels_keep_their_gradient() -> None:
    x = torch.ones(1, 3, 8, 8, requires_grad=True)
    output = Noise(sigma=0.5)(x, [0])
    output.sum().backward()
    assert output.max() <= 1
    assert torch.equal(x.grad, torch.ones_like(x))


def test_without_sigma_nothing_is_drawn(rng) -> None:
    x = torch.from_numpy(rng.random((1, 3, 8, 8)))
    assert torch.equal(Noise(sigma=0.0)(x, [0]), x)
    assert not Noise(sigma=0.0).is_random


@pytest.mark.parametrize("sigma", [-0.1, 1.5, 12.75])
def test_sigma_in_gray_levels_is_refused(sigma: float) -> None:
    with pytest.raises(ConfigError):
        Noise(sigma=sigma)
