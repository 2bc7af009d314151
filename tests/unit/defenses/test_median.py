import numpy as np
import pytest
import torch

from loricate.basics.errors import ConfigError
from loricate.defenses.median import Median


@pytest.mark.parametrize("size", [3, 5])
def test_is_the_median_of_every_window(size: int, rng) -> None:
    x = rng.random((2, 3, 8, 9))
    margin = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (2, 3))
    expected = torch.from_numpy(np.median(windows, axis=(-2, -1)))
    assert torch.equal(Median(size=size)(torch.from_numpy(x), [0, 1]), expected)


def test_a_lone_pixel_goes_and_an_edge_stays() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4:] = 1.0
    spotted = x.clone()
    spotted[..., 3, 1] = 1.0
    assert torch.equal(Median()(spotted, [0]), x)


def test_gradient_is_exact_without_ties(rng) -> None:
    levels = rng.permutation(2 * 5 * 6) / 100 + 0.2
    x = torch.from_numpy(levels.reshape(1, 2, 5, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: Median(bpda="subgradient")(z, [0]), (x,))


def test_gradients_are_copied_whole_where_pixels_tie() -> None:
    x = torch.full((1, 1, 6, 6), 0.5, requires_grad=True)
    Median(bpda="subgradient")(x, [0]).sum().backward()
    assert x.grad.sum() == 36


def test_attacks_see_the_mean_by_default() -> None:
    x = torch.zeros(1, 1, 7, 7, requires_grad=True)
    Median()(x, [0])[..., 3, 3].sum().backward()
    expected = torch.zeros(7, 7)
    expected[2:5, 2:5] = 1 / 9
    assert torch.allclose(x.grad[0, 0], expected)


@pytest.mark.parametrize("size", [1, 4, 17, 3.5])
def test_size_is_odd(size) -> None:
    with pytest.raises(ConfigError, match="odd"):
        Median(size=size)
