import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from backdoor.plan import TARGETS, TRIGGERS, Settings, bank_of, key_of, recipes
from backdoor.roc import Group, area, logistic, standardized, wins_of

RNG = np.random.default_rng(0)


def group(x: list[float], component: str = "unet") -> Group:
    return Group(np.array(x, np.float64)[:, None], np.full(len(x), component))


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    found = area(np.array([[1.0, 0.0], [1.0, 0.5]]), seed=0)
    assert found.value == 0.625
    assert found.low <= 0.625 <= found.high
    assert (found.n_clean, found.n_bad) == (2, 2)


def test_perfect_and_useless_scores_have_the_areas_they_should():
    clean, bad = group([0.0, 1.0, 2.0]), group([3.0, 4.0, 5.0])
    assert wins_of(clean, bad, fit=False).mean() == 1.0
    assert wins_of(bad, clean, fit=False).mean() == 0.0
    assert wins_of(clean, clean, fit=False).mean() == 0.5


def test_noise_has_an_area_of_one_half_though_a_regression_is_fitted():
    areas = []
    for _ in range(20):
        clean, bad = (Group(RNG.normal(size=(8, 3)), np.full(8, "unet")) for _ in range(2))
        areas.append(wins_of(clean, bad, fit=True).mean())
    assert abs(np.mean(areas) - 0.5) < 3 * np.std(areas) / 20**0.5


def test_a_component_of_another_size_does_not_decide_the_pooled_area():
    clean = Group(
        np.array([[0.0], [1.0], [2.0], [100.0], [101.0], [102.0]]), np.repeat(["a", "b"], 3)
    )
    bad = Group(np.array([[50.0], [200.0]]), np.array(["a", "b"]))
    assert wins_of(clean, bad, fit=False).mean() == 1.0


def test_what_is_tested_does_not_move_the_bank():
    bank = group([0.0, 2.0])
    assert standardized(group([1.0]), bank) == pytest.approx(0.0)
    assert standardized(group([1.0 + 2**0.5]), bank) == pytest.approx(1.0, rel=1e-3)


def test_the_regression_is_at_the_minimum_of_its_loss():
    negative, positive = RNG.normal(size=(9, 2)), RNG.normal([1.0, 0.0], size=(7, 2))
    w = logistic(negative, positive)
    x = np.concatenate([negative, positive])
    y = np.repeat([0.0, 1.0], [9, 7])

    def loss(w, b):
        margin = x @ w + b
        return np.sum(np.logaddexp(0, margin) - y * margin) + 0.5 * w @ w

    intercepts = np.linspace(-4, 4, 4001)
    best = min(loss(w, b) for b in intercepts)
    for direction in np.eye(2):
        for size in (-0.05, 0.05):
            assert min(loss(w + size * direction, b) for b in intercepts) > best


def test_every_label_has_both_components_in_equal_numbers():
    made = recipes(seed=0)
    for label in ("clean", "backdoored", "adaptive"):
        counts = {
            part: sum(r.group == label and r.component == part for r in made)
            for part in ("text_encoder", "unet")
        }
        assert counts["text_encoder"] == counts["unet"]
    assert len({r.name for r in made}) == len({r.seed for r in made}) == len(made)


def test_each_trigger_has_its_target_and_half_of_them_are_swept():
    for triggers in TRIGGERS.values():
        assert len(triggers) == len(TARGETS)
        assert sum(t.listed for t in triggers) * 2 == len(triggers)


def test_results_are_kept_apart_by_everything_they_depend_on():
    first, *_, last = recipes(seed=0)
    keys = {
        key_of(Settings(), first),
        key_of(Settings(), last),
        key_of(Settings(steps=7), first),
        key_of(Settings(), last, *bank_of(last, recipes(seed=0))),
    }
    assert len(keys) == 4
    assert key_of(Settings(), first) == key_of(Settings(), recipes(seed=0)[0])
    assert bank_of(first, recipes(seed=0)) == ()
