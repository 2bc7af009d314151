import math

import pytest
import torch

from loricate.basics.errors import ConfigError
from loricate.defenses.blur import Blur


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_dot_becomes_a_gaussian(sigma: float) -> None:
    x = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    x[..., 20, 20] = 1.0
    bell = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-20, 21)]
    row = torch.tensor(bell, dtype=torch.float64) / sum(bell)
    assert torch.allclose(Blur(sigma=sigma)(x, [0])[0, 0], torch.outer(row, row), atol=1e-4)


def test_flat_pictures_stay_and_channels_do_not_mix() -> None:
    flat = torch.tensor([0.1, 0.5, 1.0]).view(1, 3, 1, 1).expand(2, 3, 9, 7)
    assert torch.allclose(Blur(sigma=5.0)(flat, [0, 1]), flat, atol=1e-6)


def test_gradient_is_exact(rng) -> None:
    x = torch.from_numpy(rng.uniform(0.2, 0.8, (1, 2, 5, 6))).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: Blur()(z, [0]), (x,))


def test_white_has_a_gradient_and_stays_white() -> None:
    x = torch.ones(1, 3, 16, 16, requires_grad=True)
    output = Blur(sigma=1.7)(x, [0])
    output.sum().backward()
    assert output.max() <= 1
    assert (x.grad > 0).all()


@pytest.mark.parametrize("sigma", [0.0, -1.0, 65.0, math.nan, "wide"])
def test_sigma_is_a_length(sigma) -> None:
    with pytest.raises(ConfigError):
        Blur(sigma=sigma)
