"""The laws have to bite: each sabotaged part breaks one and is caught by it."""

import itertools
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import LoricateError
from loricate.basics.spec import Spec
from loricate.core.attack import Attack
from loricate.core.defense import InputDefense, Regularizer
from loricate.core.metric import Metric
from loricate.core.objective import Objective
from loricate.core.problem import Problem
from loricate.testing import _attack_laws as of_attacks
from loricate.testing import _part_laws as of_parts
from loricate.testing._spec_laws import survives_toml

_COUNTER = itertools.count()


def _attack(name: str, perturb) -> Attack:
    cls = type(name, (Attack,), {"perturb": lambda self, x, problem: perturb(x, problem)})
    return dataclass(frozen=True, kw_only=True)(cls)()


def _leave_the_ball(x: Tensor, problem: Problem) -> Tensor:
    return problem.center + 1.01 * (problem.noise(0) - problem.center)


def _leave_the_box(x: Tensor, problem: Problem) -> Tensor:
    return problem.ball.surface_sample(x, problem.random(0))


def _change_dtype(x: Tensor, problem: Problem) -> Tensor:
    return problem.noise(0).half().to(x) if x.dtype == torch.float64 else problem.noise(0).double()


def _mutate_the_input(x: Tensor, problem: Problem) -> Tensor:
    return x.add_(0.01).clamp_(0, 1)


def _train_the_model(x: Tensor, problem: Problem) -> Tensor:
    for parameter in problem._surface.surface.surface.function.parameters():
        parameter.data.add_(1e-3)
    return x


def _leave_gradients(x: Tensor, problem: Problem) -> Tensor:
    problem._surface.surface(x, [0] * len(x)).sum().backward()
    return x


def _move_the_global_generator(x: Tensor, problem: Problem) -> Tensor:
    torch.rand(1)
    return x


def _remember_the_last_run(x: Tensor, problem: Problem) -> Tensor:
    return problem.noise(next(_COUNTER))


def _move_without_budget(x: Tensor, problem: Problem) -> Tensor:
    return problem.domain.clip(x + 5e-6)


def _draw_for_the_batch(x: Tensor, problem: Problem) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return problem.feasible(x + torch.rand(x.shape, generator=generator).to(x) - 0.5)


def _look_at_batch_mates(x: Tensor, problem: Problem) -> Tensor:
    return problem.feasible(x + (x.mean() - x).sign())


def _ask_in_secret(x: Tensor, problem: Problem) -> Tensor:
    problem._surface.surface(x, [0] * len(x))
    return x


def _stand_still(x: Tensor, problem: Problem) -> Tensor:
    return PGD(steps=3, random_start=False).perturb(x, problem)


def _descend(x: Tensor, problem: Problem) -> Tensor:
    z = problem.noise(0)
    for _ in range(3):
        _, gradient = problem.value_and_grad(z)
        z = problem.feasible(z - 0.01 * problem.ball.steepest(gradient))
    return z


def _crawl(x: Tensor, problem: Problem) -> Tensor:
    return PGD(steps=3, step_size=1e-4).perturb(x, problem)


_ATTACKS = [
    (_leave_the_ball, of_attacks.stays_in_ball_and_box),
    (_leave_the_box, of_attacks.stays_in_ball_and_box),
    (_change_dtype, of_attacks.keeps_shape_and_dtype),
    (_mutate_the_input, of_attacks.leaves_input_and_model_alone),
    (_train_the_model, of_attacks.leaves_input_and_model_alone),
    (_leave_gradients, of_attacks.leaves_input_and_model_alone),
    (_remember_the_last_run, of_attacks.same_seed_same_result),
    (_move_without_budget, of_attacks.without_budget_returns_the_input),
    (_draw_for_the_batch, of_attacks.batch_mates_do_not_matter),
    (_look_at_batch_mates, of_attacks.batch_mates_do_not_matter),
    (_ask_in_secret, of_attacks.counts_calls),
    (_stand_still, of_attacks.beats_noise),
    (_descend, of_attacks.beats_noise),
    (_descend, of_attacks.sees_through_randomness),
    (_crawl, of_attacks.finds_a_planted_optimum),
]


@pytest.mark.parametrize(
    ("sabotage", "law"), _ATTACKS, ids=[f"{s.__name__[1:]}-{law.__name__}" for s, law in _ATTACKS]
)
def test_sabotaged_attacks_are_caught(sabotage, law) -> None:
    with pytest.raises((AssertionError, LoricateError)):
        law(_attack("Sabotaged", sabotage))


def test_moving_the_global_generator_is_caught() -> None:
    state = torch.get_rng_state()
    with pytest.raises(AssertionError):
        of_attacks.leaves_global_generators_alone(_attack("Sabotaged", _move_the_global_generator))
    torch.set_rng_state(state)


@pytest.mark.parametrize("law", of_attacks.laws(RandomNoise()), ids=lambda law: law.__name__)
def test_the_same_laws_pass_an_honest_attack(law) -> None:
    law(_attack("Honest", lambda x, problem: problem.noise(0)))


def _broken_harness(monkeypatch, **changes: Any) -> None:
    """Results that a harness with a defect would report."""
    honest = of_attacks._Case.run

    def run(case, *args):
        return replace(honest(case, *args), **{key: lie(case) for key, lie in changes.items()})

    monkeypatch.setattr(of_attacks._Case, "run", run)


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        (
            {"value": lambda case: torch.zeros(3).to(case.x)},
            of_attacks.is_never_worse_than_the_input,
        ),
        ({"adversarial": lambda case: case.x + 1e-3}, of_attacks.survives_8_bits),
        ({"adversarial": lambda case: case.x + 0.1}, of_attacks.stays_in_ball_and_box),
        ({"calls": lambda case: 0}, of_attacks.counts_calls),
    ],
)
def test_a_broken_harness_is_caught(changes, law, monkeypatch) -> None:
    _broken_harness(monkeypatch, **changes)
    with pytest.raises(AssertionError):
        law(RandomNoise())


def test_a_harness_that_lets_nan_through_is_caught(monkeypatch) -> None:
    monkeypatch.setattr(of_attacks._Case, "run", lambda self, attack: None)
    with pytest.raises(AssertionError, match="NaN"):
        of_attacks.refuses_nan(RandomNoise())


class _Objective(Objective):
    surface_kind: ClassVar[str] = "vae_encoder"


class _MeanOverTheBatch(_Objective):
    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).square().mean().expand(len(output))


class _LiveReference(_Objective):
    def reference(self, surface, x, seeds) -> Tensor:
        return surface(x, seeds)

    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).flatten(1).square().sum(1)


class _CutGradient(_Objective):
    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        moved = output - reference
        return (moved * moved.detach()).flatten(1).sum(1)


class _Defense(InputDefense):
    pass


class _OutOfRange(_Defense):
    def __call__(self, x: Tensor, seeds) -> Tensor:
        return 1.1 * x


class _UndeclaredRounding(_Defense):
    def __call__(self, x: Tensor, seeds) -> Tensor:
        return (x * 15).round() / 15


class _FalseIdentity(_Defense):
    bpda = "identity"

    def __call__(self, x: Tensor, seeds) -> Tensor:
        return x.square()


class _OtherForwardForAttackers(_Defense):
    def __call__(self, x: Tensor, seeds) -> Tensor:
        return x if torch.is_grad_enabled() and x.requires_grad else x.square()


class _HiddenRandomness(_Defense):
    def __call__(self, x: Tensor, seeds) -> Tensor:
        return x * (0.5 + torch.tensor(seeds).view(-1, 1, 1, 1) % 997 / 2000)


class _ShatteredGradient(_Defense):
    bpda = "smooth"

    def __call__(self, x: Tensor, seeds) -> Tensor:
        signs = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0)).sign()
        return x.detach() + signs * (x - x.detach())


class _Penalty(Regularizer):
    pass


class _NeverZero(_Penalty):
    def penalty(self, base, updates) -> Tensor:
        return sum((base[k] + u).square().sum() for k, u in updates.items())


class _NormWithoutSlope(_Penalty):
    def penalty(self, base, updates) -> Tensor:
        return sum(u.square().sum().sqrt() for u in updates.values())


class _DetachedHalf(_Penalty):
    def penalty(self, base, updates) -> Tensor:
        return sum((u * u.detach()).sum() for u in updates.values())


class _Metric(Metric):
    identical: ClassVar[float] = 0.0

    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).flatten(1).norm(dim=1)


class _SymmetricInSecret(_Metric):
    pass


class _Broadcasting(_Metric):
    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference[:1]).flatten(1).norm(dim=1)


class _WrongIdentity(_Metric):
    identical: ClassVar[float] = 1.0


class _Saturated(_Metric):
    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        return super().__call__(output, reference).sign()


class _SortedRows(_Metric):
    def __call__(self, output: Tensor, reference: Tensor) -> Tensor:
        return super().__call__(output, reference).sort().values


_PARTS = [
    (_MeanOverTheBatch, of_parts.value_is_one_number_a_sample),
    (_LiveReference, of_parts.reference_has_no_gradient),
    (_CutGradient, of_parts.gradient_matches_differences),
    (_OutOfRange, of_parts.transforms_pictures_to_pictures),
    (_HiddenRandomness, of_parts.draws_by_seed),
    (_OtherForwardForAttackers, of_parts.transforms_alike_with_and_without_gradient),
    (_UndeclaredRounding, of_parts.declared_backward_is_what_gradients_see),
    (_FalseIdentity, of_parts.declared_backward_is_what_gradients_see),
    (_ShatteredGradient, of_parts.is_open_to_attack),
    (_NeverZero, of_parts.vanishes_without_update),
    (_NormWithoutSlope, of_parts.vanishes_without_update),
    (_DetachedHalf, of_parts.penalty_matches_differences),
    (_WrongIdentity, of_parts.identical_outputs_have_the_documented_value),
    (_Saturated, of_parts.distance_grows),
    (_SymmetricInSecret, of_parts.symmetry_is_as_documented),
    (_SortedRows, of_parts.order_of_rows_does_not_matter),
    (_Broadcasting, of_parts.refuses_other_shapes),
]


@pytest.mark.parametrize(
    ("sabotage", "law"), _PARTS, ids=[f"{s.__name__[1:]}-{law.__name__}" for s, law in _PARTS]
)
def test_sabotaged_parts_are_caught(sabotage: type[Spec], law) -> None:
    with pytest.raises(AssertionError):
        law(dataclass(frozen=True, kw_only=True)(sabotage)())


def test_every_law_is_broken_at_least_once() -> None:
    written = {
        *of_attacks._ALWAYS,
        *of_attacks._WITH_GRADIENT,
        *of_attacks._ITERATIVE,
        *of_parts.OBJECTIVE,
        *of_parts.INPUT_DEFENSE,
        *of_parts.REGULARIZER,
        *of_parts.METRIC,
    }
    broken = {law for _, law in (*_ATTACKS, *_PARTS)} | {
        of_attacks.leaves_global_generators_alone,
        of_attacks.is_never_worse_than_the_input,
        of_attacks.survives_8_bits,
        of_attacks.refuses_nan,
    }
    assert written == broken


def test_a_spec_that_loses_a_field_is_caught(monkeypatch) -> None:
    monkeypatch.setattr("loricate.testing._spec_laws.to_toml", lambda spec: 'name = "pgd"')
    survives_toml(PGD())
    with pytest.raises(AssertionError):
        survives_toml(PGD(steps=3))
