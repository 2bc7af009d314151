"""The harness: what it refuses, what it counts, what it reports."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from loricate.attacks.fgsm import FGSM
from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import BudgetViolation, NumericalError, ShapeError, UnsupportedError
from loricate.core.attack import Attack
from loricate.core.balls import L2, Linf
from loricate.core.domain import Domain
from loricate.core.objective import Objective
from loricate.core.problem import Problem
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import CountingSurface, NoisySurface, conv_encoder, pictures

_LINF = ThreatModel(ball=Linf(epsilon="8/255"))


@dataclass(frozen=True, kw_only=True)
class _Returns(Attack):
    """Returns the input plus a shift."""

    shift: float = 0.0
    extra_rows: int = 0

    def perturb(self, x: Tensor, problem: Problem) -> Tensor:
        return torch.cat([x + self.shift, x[: self.extra_rows]])


@dataclass(frozen=True, kw_only=True)
class _Sum(Objective):
    surface_kind: ClassVar[str] = "any"

    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        return output.flatten(1).sum(1)


def _run(attack: Attack, surface=None, *, x=None, objective=None, threat=_LINF):
    x = pictures(2, lower=0.2, upper=0.8) if x is None else x
    surface = surface or ModuleSurface(conv_encoder())
    return attack(surface, objective or LatentShift(), threat, x, seeds=list(range(len(x))))


def test_leaving_the_ball_names_sample_and_size() -> None:
    with pytest.raises(BudgetViolation) as caught:
        _run(_Returns(shift=0.1))
    error = caught.value
    assert (error.budget, error.sample) == ("linf ball", 0)
    assert (error.allowed, error.got) == pytest.approx((8 / 255, 0.1))


def test_leaving_the_box_is_a_violation_too() -> None:
    with pytest.raises(BudgetViolation) as caught:
        _run(_Returns(shift=0.02), x=torch.ones(1, 3, 8, 8, dtype=torch.float64))
    assert caught.value.budget == "distance from the box of pixels"


def test_nan_from_an_attack_is_within_no_budget() -> None:
    with pytest.raises(BudgetViolation):
        _run(_Returns(shift=float("nan")))


def test_a_result_of_another_shape_is_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        _run(_Returns(extra_rows=1))
    assert caught.value.got[1] == (3, 3, 12, 12)


def test_seeds_are_one_a_sample() -> None:
    with pytest.raises(ShapeError) as caught:
        RandomNoise()(ModuleSurface(conv_encoder()), LatentShift(), _LINF, pictures(2), seeds=[1])
    assert caught.value.where == "seeds"


def test_a_surface_without_gradient_is_refused_by_gradient_attacks_alone() -> None:
    encoder = conv_encoder()
    for cut in (lambda x: encoder(x.detach()), lambda x: encoder(x.detach()).detach()):
        with pytest.raises(UnsupportedError):
            _run(PGD(steps=1), ModuleSurface(cut))
    _run(RandomNoise(), ModuleSurface(cut))


def test_gradients_are_taken_where_nobody_else_takes_any() -> None:
    with torch.no_grad():
        result = _run(PGD(steps=3))
    assert (result.value > result.clean_value).all()


def test_nan_from_the_surface_carries_the_step() -> None:
    def explodes(x: Tensor) -> Tensor:
        calls.append(None)
        return encoder(x) * (float("nan") if len(calls) > 3 else 1)

    calls: list[None] = []
    encoder = conv_encoder()
    with pytest.raises(NumericalError) as caught:
        _run(PGD(steps=5), ModuleSurface(explodes))
    assert caught.value.step == 2  # after the clean output


def test_no_forward_pass_is_wasted() -> None:
    surface = CountingSurface(ModuleSurface(conv_encoder()))
    result = _run(PGD(steps=7, n_restarts=3), surface)
    # The clean output once, 7 steps and their end for each restart, the score.
    assert len(surface.rows) == 1 + 3 * (7 + 1) + 1
    assert len(result.history) == 3 * 7
    assert result.calls == 2 * len(surface.rows)


def test_history_is_the_mean_over_draws_of_value_and_gradient() -> None:
    x = pictures(2, lower=0.2, upper=0.8)
    surface = NoisySurface(ModuleSurface(conv_encoder()))
    threat = ThreatModel(ball=Linf(epsilon="8/255"), eot_samples=3)
    problem = Problem(surface, _Sum(), threat, x, [0, 1])
    value, gradient = problem.value_and_grad(x)
    assert torch.allclose(value, problem.value(x))
    assert problem.history == [
        (pytest.approx(value.mean().item()), pytest.approx(gradient.abs().mean().item()))
    ]


def test_pgd_by_hand_on_a_linear_map() -> None:
    # The sum of all pixels rises fastest where every pixel rises: to the ball or to white.
    x = torch.tensor([[[[0.0, 1.0]], [[128 / 255, 250 / 255]]]], dtype=torch.float64)
    attack = PGD(steps=2, step_size="6/255", decay=False, random_start=False)
    result = _run(attack, ModuleSurface(lambda z: z), x=x, objective=_Sum())
    expected = torch.tensor([[[[8.0, 255.0]], [[136.0, 255.0]]]], dtype=torch.float64) / 255
    assert torch.allclose(result.adversarial, expected)
    assert result.clean_value.item() == pytest.approx(x.sum().item())
    assert result.value.item() == pytest.approx(expected.sum().item())


def test_pgd_in_an_l2_ball_of_latents_reaches_the_gradient_direction() -> None:
    latents = torch.zeros(1, 4, 2, 2, dtype=torch.float64)
    weights = torch.arange(16, dtype=torch.float64).view(1, 4, 2, 2)
    surface = ModuleSurface(lambda z: z * weights, Domain("latent", -10.0, 10.0))
    threat = ThreatModel(ball=L2(epsilon=3.0))
    result = _run(PGD(steps=60), surface, x=latents, objective=_Sum(), threat=threat)
    assert result.value.item() == pytest.approx(3 * weights.norm().item(), rel=1e-3)


def test_fgsm_ends_where_its_step_leads() -> None:
    x = pictures(1, lower=0.2, upper=0.8)
    result = _run(FGSM(step_share=2.0), ModuleSurface(lambda z: z), x=x, objective=_Sum())
    assert torch.allclose(result.adversarial, x + 8 / 255)


def test_rounding_that_undoes_the_gain_returns_the_input() -> None:
    # A tenth of a level is gone after saving; so is its value.
    x = pictures(1, lower=0.2, upper=0.8)
    result = _run(_Returns(shift=0.1 / 255), objective=_Sum(), x=x)
    assert torch.equal(result.adversarial, x)
    assert result.value.item() == result.clean_value.item()
