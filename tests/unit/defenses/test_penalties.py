import pytest
import torch

from loricate.defenses.drift_penalty import DriftPenalty
from loricate.defenses.jacobian_penalty import JacobianPenalty
from loricate.defenses.orthogonality_penalty import OrthogonalityPenalty
from loricate.defenses.spectral_penalty import SpectralPenalty


def _matrix(rng, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=shape))


def test_drift_by_hand() -> None:
    base = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.tensor([[1.0]]), "unused": torch.ones(2, 2)}
    updates = {"a": torch.tensor([[0.0, 1.0]]), "b": torch.tensor([[2.0]])}
    assert DriftPenalty().penalty(base, updates).item() == pytest.approx((1 / 25 + 4) / 2)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (1, 5), (5, 1)])
def test_spectral_norms_are_those_of_the_singular_values(shape: tuple[int, int], rng) -> None:
    base, update = _matrix(rng, *shape), _matrix(rng, *shape)
    ratio = torch.linalg.matrix_norm(update, 2) / torch.linalg.matrix_norm(base, 2)
    penalty = SpectralPenalty(limit=0.1, iterations=500).penalty({"w": base}, {"w": update})
    assert penalty.item() == pytest.approx((ratio - 0.1).item() ** 2, rel=1e-9)


def test_spectral_gradient_is_the_outer_product_of_the_top_vectors(rng) -> None:
    base, update = _matrix(rng, 5, 7), _matrix(rng, 5, 7).requires_grad_()
    SpectralPenalty(limit=0.0, iterations=500).penalty({"w": base}, {"w": update}).backward()
    left, sigma, right = torch.linalg.svd(update.detach())
    scale = torch.linalg.matrix_norm(base, 2)
    expected = 2 * sigma[0] / scale**2 * torch.outer(left[:, 0], right[0])
    assert torch.allclose(update.grad, expected)


def test_within_the_limit_nothing_is_charged_and_nothing_pushed(rng) -> None:
    base = _matrix(rng, 5, 7)
    update = (0.05 * base).requires_grad_()
    penalty = SpectralPenalty(limit=0.1).penalty({"w": base}, {"w": update})
    penalty.backward()
    assert penalty.item() == 0.0
    assert not update.grad.any()


def test_layers_add_up_and_runs_agree(rng) -> None:
    base = {name: _matrix(rng, 4, 6) for name in "ab"}
    updates = {name: _matrix(rng, 4, 6) for name in "ab"}
    spec = SpectralPenalty()
    alone = [spec.penalty(base, {name: updates[name]}) for name in "ab"]
    assert torch.equal(spec.penalty(base, updates), alone[0] + alone[1])
    assert torch.equal(spec.penalty(base, updates), spec.penalty(base, updates))


def test_jacobian_growth_by_hand(rng) -> None:
    base = {"a": _matrix(rng, 4, 6), "b": _matrix(rng, 5, 3)}
    updates = {"a": base["a"] * (torch.e - 1), "b": base["b"] * -0.5}
    assert JacobianPenalty().penalty(base, updates).item() == pytest.approx(1 / 2)


def test_jacobian_growth_is_that_of_random_directions(rng) -> None:
    weight, update = _matrix(rng, 4, 6), _matrix(rng, 4, 6)
    directions = _matrix(rng, 6, 200_000)
    steep, flat = ((w @ directions).square().sum(0).mean() for w in (weight + update, weight))
    expected = (0.5 * (steep / flat).log()).clamp(min=0).square().item()
    penalty = JacobianPenalty().penalty({"w": weight}, {"w": update})
    assert penalty.item() == pytest.approx(expected, rel=0.05)


def test_rotations_keep_the_neurons_and_anything_else_is_charged(rng) -> None:
    weight = _matrix(rng, 5, 7)
    rotation = torch.linalg.qr(_matrix(rng, 7, 7))[0]
    spec = OrthogonalityPenalty()
    turned = spec.penalty({"w": weight}, {"w": weight @ rotation - weight})
    assert turned.item() == pytest.approx(0.0, abs=1e-20)
    doubled = spec.penalty({"w": weight}, {"w": weight})
    assert doubled.item() == pytest.approx(9.0)  # (4 - 1)^2


@pytest.mark.parametrize(
    "spec",
    [DriftPenalty(), SpectralPenalty(limit=0.0), JacobianPenalty(), OrthogonalityPenalty()],
)
def test_a_zero_update_is_the_optimum_even_of_a_zero_weight(spec) -> None:
    update = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    penalty = spec.penalty({"w": torch.zeros(4, 6, dtype=torch.float64)}, {"w": update})
    penalty.backward()
    assert penalty.item() == 0.0
    assert torch.isfinite(update.grad).all()
