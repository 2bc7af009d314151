"""Every sanity flag can fire, stays quiet on sound evidence, and is skipped without evidence."""

import pytest

from loricate.evaluation.checks import row_checks
from loricate.records.schema import Aggregate, Check, SampleRow

_EPSILON = 8 / 255


def _row(**changes) -> SampleRow:
    values = {
        "objective": 2.0,
        "objective_clean": 0.0,
        "objective_start": 0.0,
        "delta_size": _EPSILON,
    }
    values |= {"first_gradient": 0.3} | changes.pop("values", {})
    fields = {"subject": "hardened", "surface": "vae_encoder", "attack": "pgd"}
    fields |= {"objective": "latent_shift", "epsilon": _EPSILON, "seed": 0, "sample": 0} | changes
    return SampleRow(values=values, **fields)


def _drift(value: float, *, epsilon: float = _EPSILON, attack: str = "pgd", **changes) -> Aggregate:
    objective = "none" if attack == "random_noise" else "latent_shift"
    fields = {"subject": "hardened", "surface": "vae_encoder", "metric": "latent_drift", "n": 9}
    fields |= {"attack": attack, "objective": objective, "epsilon": epsilon} | changes
    return Aggregate(value=value, low=value, high=value, method="bootstrap", **fields)


_ROWS = [_row(sample=i) for i in range(4)]
_DRIFTS = [_drift(0.2, epsilon=4 / 255), _drift(0.4), _drift(0.1, attack="random_noise")]


def _checks(rows=_ROWS, drifts=_DRIFTS) -> dict[str, Check]:
    return {check.name: check for check in row_checks(rows, drifts, "hardened")}


def test_sound_evidence_passes() -> None:
    assert {name: check.level for name, check in _checks().items()} == {
        "zero_gradient": "ok",
        "stationary_start": "ok",
        "budget_after_rounding": "ok",
        "random_at_least_pgd": "ok",
        "more_epsilon_not_stronger": "ok",
    }


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("zero_gradient", _row(sample=9, values={"first_gradient": 0.0})),
        ("stationary_start", _row(sample=9, values={"objective": 0.0})),
        ("budget_after_rounding", _row(sample=9, values={"delta_size": _EPSILON + 1e-4})),
    ],
)
def test_one_bad_row_raises_its_flag_and_no_other(name: str, planted: SampleRow) -> None:
    levels = {check.name: check.level for check in _checks([*_ROWS, planted]).values()}
    assert [flag for flag, level in levels.items() if level == "error"] == [name]


def test_one_still_sample_in_two_hundred_is_no_stationary_start() -> None:
    rows = [_row(sample=i) for i in range(199)] + [_row(sample=199, values={"objective": 0.0})]
    check = _checks(rows)["stationary_start"]
    assert check.level == "ok"
    assert check.data["moved"] == pytest.approx(0.995)


@pytest.mark.parametrize("attack", [0.1, 0.09])
def test_noise_that_does_as_much_as_the_attack(attack: float) -> None:
    drifts = [_drift(attack), _drift(0.1, attack="random_noise")]
    check = _checks(drifts=drifts)["random_at_least_pgd"]
    assert check.level == "error"
    assert check.data["ratio_8"] == pytest.approx(attack / 0.1)


def test_noise_is_compared_at_its_own_radius() -> None:
    drifts = [_drift(0.2, epsilon=4 / 255), _drift(0.3, attack="random_noise")]
    assert _checks(drifts=drifts)["random_at_least_pgd"].level == "skipped"


def test_a_larger_budget_that_gains_less() -> None:
    check = _checks(drifts=[_drift(0.4, epsilon=4 / 255), _drift(0.3)])["more_epsilon_not_stronger"]
    assert check.level == "error"
    assert check.data == {"drift_4": 0.4, "drift_8": 0.3}


def test_the_strongest_of_several_attacks_speaks_for_a_radius() -> None:
    weak = _drift(0.05, attack="fgsm")
    assert _checks(drifts=[*_DRIFTS, weak])["random_at_least_pgd"].level == "ok"


def test_radii_of_other_norms_are_not_on_the_curve() -> None:
    other = _drift(0.01, epsilon=0.5, norm="l2")
    assert _checks(drifts=[*_DRIFTS, other])["more_epsilon_not_stronger"].level == "ok"


def test_without_evidence_everything_is_skipped() -> None:
    clean = _row(attack="none", objective="none").model_copy(update={"values": {}})
    checks = _checks([clean], [])
    assert {check.level for check in checks.values()} == {"skipped"}
    assert all(check.data == {} for check in checks.values())


def test_attacks_without_gradient_do_not_speak_about_gradients() -> None:
    check = _checks([_row(values={"first_gradient": float("nan")})])["zero_gradient"]
    assert check.level == "skipped"


def test_other_subjects_are_other_checks() -> None:
    bad = {"first_gradient": 0.0, "objective": 0.0, "delta_size": 1.0}
    rows = [*_ROWS, _row(subject="base", values=bad)]
    assert {check.level for check in _checks(rows).values()} == {"ok"}
