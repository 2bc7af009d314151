"""A sound attack passes the battery, and each kind of unsound one is caught by its check."""

from dataclasses import dataclass, replace

import pytest
import torch

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.spec import from_table, to_table
from loricate.core.balls import Linf
from loricate.core.defense import InputDefense
from loricate.defenses._bpda import substitute
from loricate.defenses.jpeg import JPEG
from loricate.defenses.noise import Noise
from loricate.evaluation._active_test import PlantedLatent, active_test
from loricate.evaluation._bench import Bench
from loricate.evaluation._gradient_checks import (
    gradient_matches_differences,
    gradient_promises_gain,
    line_is_smooth,
)
from loricate.evaluation._strength_checks import Duel
from loricate.evaluation.battery import BatteryPlan, battery, battery_plan
from loricate.evaluation.subjects import Pictures, Subject
from loricate.families.sd15 import SD15
from loricate.report import words
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import pictures

_EPSILON = 8 / 255
_PLAN = BatteryPlan(
    attack=PGD(steps=8),
    epsilon=_EPSILON,
    unseen_epsilon=12 / 255,
    gradient_free=(RandomNoise(n_restarts=2),),
    steps=(1, 4, 8),
    draws=(1, 2),
    eot_samples=2,
    scoring_draws=2,
    submissions=3,
    runs=2,
    n_images=2,
)


@pytest.fixture(scope="module")
def family() -> SD15:
    return SD15.tiny()


@pytest.fixture(scope="module")
def seen() -> Pictures:
    images = pictures(2, size=16, dtype=torch.float32, lower=0.1, upper=0.9)
    return Pictures(images, ("a", "b"))


@dataclass(frozen=True, kw_only=True)
class _Masked(InputDefense):
    """A gradient that points anywhere, and says it is the slope."""

    def __call__(self, x, seeds):
        return substitute(x.detach(), x.flip(-1) * 0.5)


@dataclass(frozen=True, kw_only=True)
class _Jumping(InputDefense):
    """The parity of a gray level decides what the encoder sees."""

    @property
    def bpda(self) -> str:
        return "identity"

    def __call__(self, x, seeds):
        odd = (x.detach() * 255).round() % 2
        return substitute((x.detach() + 0.3 * odd).clamp(0, 1), x)


def _bench(family, seen, *defenses: InputDefense) -> Bench:
    return Bench(Subject("hardened", family, defenses), seen, seed=0, scoring_draws=2)


def _duel(family, seen, *defenses: InputDefense, attack=_PLAN.attack) -> Duel:
    return Duel(
        base=_bench(family, seen),
        hardened=_bench(family, seen, *defenses),
        attack=attack,
        epsilon=_EPSILON,
        unseen_epsilon=12 / 255,
        eot_samples=2,
    )


def test_a_sound_attack_passes_and_every_check_is_explained(family, seen) -> None:
    base = Subject("base", family)
    told: list[int] = []
    checks = battery(
        base, base, seen, _PLAN, seed=0, observe=lambda phase, done, n, row: told.append(done)
    )
    assert [c.name for c in checks if c.level == "error"] == []
    skipped = {c.name for c in checks if c.level == "skipped"}
    assert skipped == {"eot_curve", "unseen_conditions", "resubmission"}
    assert {c.name for c in checks} <= set(words.CHECKS)
    assert told == list(range(1, len(checks)))  # two of them share their attacks


def test_what_is_random_is_checked_by_its_draws(family, seen) -> None:
    duel = _duel(family, seen, Noise(sigma=0.2))
    assert duel.draw_curve((1, 4)).data.keys() == {"draws_1", "draws_4"}
    again = duel.resubmission(8)
    assert again.level == "warning"
    assert again.data["worst"] > again.data["once"]


def test_a_masked_gradient_is_caught(family, seen) -> None:
    bench, attack = _bench(family, seen, _Masked()), PGD(steps=8)
    assert active_test(bench, attack, _EPSILON, 1).level == "error"
    assert gradient_matches_differences(bench, _EPSILON).level == "error"
    assert _duel(family, seen, _Masked()).order().level == "error"


def test_a_declared_backward_pass_is_named_and_left_out(family, seen) -> None:
    check = gradient_matches_differences(_bench(family, seen, JPEG()), _EPSILON)
    assert check.level == "ok"
    assert "JPEG" in check.message
    assert check.data["smallest_cosine"] == pytest.approx(1.0, abs=1e-6)


def test_the_planted_weakness_is_found_through_jpeg(family, seen) -> None:
    assert (
        active_test(_bench(family, seen, JPEG(quality=60)), PGD(steps=20), _EPSILON, 1).level
        == "ok"
    )


def test_the_known_exploit_is_the_optimum_without_preprocessing(family, seen) -> None:
    bench = _bench(family, seen)
    check = active_test(bench, PGD(steps=30), _EPSILON, 1)
    assert 0.95 <= check.data["smallest_share"] <= 1 + 1e-5


def test_planting_adds_the_weighted_sum_to_the_first_channel_alone(rng) -> None:
    inner = ModuleSurface(lambda x: x.repeat(1, 2, 1, 1))
    weights = torch.from_numpy(rng.normal(size=(3, 4, 4)))
    x = torch.from_numpy(rng.random((2, 3, 4, 4)))
    output = PlantedLatent(inner, weights, 2.0)(x, [0, 1])
    raised = output - inner(x, [0, 1])
    expected = 2.0 * (x * weights).sum((1, 2, 3))
    assert torch.allclose(raised[:, 0], expected[:, None, None].expand(2, 4, 4))
    assert not raised[:, 1:].any()


def test_jumps_are_rough_and_lines_are_not(family, seen) -> None:
    for defenses, level in (((), "ok"), ((_Jumping(),), "warning")):
        bench = _bench(family, seen, *defenses)
        found = bench.attacked(PGD(steps=8), Linf(epsilon=_EPSILON)).adversarial
        assert line_is_smooth(bench, found).level == level


def test_a_flat_start_promises_nothing(family, seen) -> None:
    bench = _bench(family, seen)
    result = bench.attacked(PGD(steps=2), Linf(epsilon=_EPSILON))
    assert gradient_promises_gain(bench, result, _EPSILON).level == "ok"
    value, size = result.first
    flat = replace(result, first=(value, size * 1e-6))
    assert gradient_promises_gain(bench, flat, _EPSILON).level == "error"
    noise = bench.attacked(RandomNoise(), Linf(epsilon=_EPSILON))
    assert gradient_promises_gain(bench, noise, _EPSILON).level == "skipped"


def test_an_attack_that_hardly_moves_loses_to_a_single_step_and_to_others(family, seen) -> None:
    timid = PGD(steps=2, step_size=1e-6, decay=False)
    duel = _duel(family, seen, attack=timid)
    assert duel.single_step().level == "error"
    assert duel.gradient_free((PGD(steps=8),)).level == "error"
    assert duel.gradient_free(()).level == "skipped"
    assert _duel(family, seen).single_step().level == "ok"


def test_without_a_budget_a_frozen_attack_is_caught(family, seen, monkeypatch) -> None:
    assert _duel(family, seen).unbounded().level == "ok"
    monkeypatch.setattr(PGD, "perturb", lambda self, x, problem: x.clone())
    assert _duel(family, seen).unbounded().level == "error"


def test_curves_that_fall_are_errors_and_curves_that_rise_to_the_end_are_warnings(
    family, seen
) -> None:
    duel = _duel(family, seen)
    for drifts, level in (
        ((0.3, 0.5, 0.51), "ok"),
        ((0.3, 0.4, 0.5), "warning"),
        ((0.3, 0.5, 0.4), "error"),
    ):
        curve = dict(zip((1, 10, 50), drifts, strict=True))
        assert duel._curve("step_curve", "steps", curve).level == level


def test_gains_that_vanish_at_unseen_conditions_are_told(family, seen) -> None:
    duel = _duel(family, seen, Noise(sigma=0.01))
    labels = ["2/255", "4/255", "8/255", "12/255", "l2 0.43"]
    kept = dict.fromkeys(labels, (0.6, 0.3))
    duel.__dict__["_sweep"] = kept
    assert duel.unseen_conditions().level == "ok"
    duel.__dict__["_sweep"] = kept | {"l2 0.43": (0.6, 0.59)}
    assert duel.unseen_conditions().level == "warning"
    duel.__dict__["_sweep"] = kept | {"12/255": (0.6, 0.2)}
    assert duel.radius_curve().level == "error"


@pytest.mark.parametrize("size", ["quick", "standard", "full"])
def test_plans_survive_their_tables(size) -> None:
    plan = battery_plan(16 / 255, size)
    assert from_table(BatteryPlan, to_table(plan)) == plan
    assert plan.unseen_epsilon > plan.epsilon
