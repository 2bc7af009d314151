import pytest
import torch

from loricate.basics.errors import ConfigError
from loricate.defenses.resize import Resize


def test_removes_a_checkerboard_and_keeps_a_flat_picture() -> None:
    checker = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(8, 8)[None, None]
    assert torch.allclose(Resize()(checker, [0])[..., 4:-4, 4:-4], torch.tensor(0.5), atol=1e-6)
    flat = torch.full((1, 3, 9, 7), 0.25)
    assert torch.allclose(Resize()(flat, [0]), flat, atol=1e-6)


def test_factor_one_changes_nothing(rng) -> None:
    x = torch.from_numpy(rng.random((1, 3, 9, 7)))
    assert torch.allclose(Resize(factor=1.0)(x, [0]), x, atol=1e-12)


def test_gradient_is_exact(rng) -> None:
    x = torch.from_numpy(rng.uniform(0.2, 0.8, (1, 1, 6, 5))).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: Resize(factor=0.4)(z, [0]), (x,))


def test_white_has_a_gradient_and_stays_white() -> None:
    x = torch.ones(1, 3, 16, 16, requires_grad=True)
    output = Resize(factor=0.3)(x, [0])
    output.sum().backward()
    assert output.max() <= 1
    assert (x.grad > 0).all()


@pytest.mark.parametrize("factor", [0.0, 1.5])
def test_factor_shrinks(factor: float) -> None:
    with pytest.raises(ConfigError):
        Resize(factor=factor)
