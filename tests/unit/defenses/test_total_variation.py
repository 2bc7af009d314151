import pytest
import torch

from loricate.basics.errors import ConfigError
from loricate.defenses.total_variation import TotalVariation, _adjoint, _gradient

_LOW, _HIGH, _WIDTH = 0.3, 0.7, 5


def _step(channels: int) -> torch.Tensor:
    x = torch.full((1, channels, 4, 2 * _WIDTH), _LOW, dtype=torch.float64)
    x[..., _WIDTH:] = _HIGH
    return x


@pytest.mark.parametrize("channels", [1, 3])
def test_both_sides_of_a_step_approach_each_other_by_the_known_amount(channels: int) -> None:
    # Least c of channels * width * c^2 + strength * sqrt(channels) * (step - 2 c), row by row.
    strength = 0.2
    shift = strength / (channels**0.5 * _WIDTH)
    expected = _step(channels)
    expected[..., :_WIDTH] += shift
    expected[..., _WIDTH:] -= shift
    output = TotalVariation(strength=strength, iterations=400)(_step(channels), [0])
    assert torch.allclose(output, expected, atol=1e-6)


def test_all_is_flat_in_the_end(rng) -> None:
    x = torch.from_numpy(rng.random((1, 3, 6, 5)))
    output = TotalVariation(strength=50.0, iterations=3000)(x, [0])
    assert torch.allclose(output, x.mean((2, 3), keepdim=True).expand_as(x), atol=1e-3)


def test_the_adjoint_is_one(rng) -> None:
    u, p = (torch.from_numpy(rng.normal(size=shape)) for shape in ((2, 3, 6, 5), (2, 2, 3, 6, 5)))
    assert torch.isclose((_gradient(u) * p).sum(), (u * _adjoint(p)).sum())


def test_more_iterations_come_closer_to_the_minimum(rng) -> None:
    x = torch.from_numpy(rng.random((1, 3, 12, 12)))

    def energy(iterations: int) -> float:
        u = TotalVariation(strength=0.1, iterations=iterations)(x, [0])
        lengths = _gradient(u).square().sum((0, 2)).sqrt()
        return float((u - x).square().sum() / 2 + 0.1 * lengths.sum())

    assert energy(5) > energy(30) > energy(300) - 1e-9
    assert energy(30) < energy(300) * 1.001


def test_gradient_is_exact_through_all_iterations(rng) -> None:
    x = torch.from_numpy(rng.uniform(0.2, 0.8, (1, 2, 4, 5))).requires_grad_()
    spec = TotalVariation(strength=0.1, iterations=15)
    assert torch.autograd.gradcheck(lambda z: spec(z, [0]), (x,))


@pytest.mark.parametrize("fields", [{"strength": 0.0}, {"strength": -1.0}, {"iterations": 0}])
def test_strength_and_iterations_are_positive(fields) -> None:
    with pytest.raises(ConfigError):
        TotalVariation(**fields)
