"""Numbers of a record, worked by hand from rows."""

import math

import numpy as np
import pytest

from loricate.basics.errors import ShapeError
from loricate.evaluation.aggregates import aggregate, worst_case
from loricate.evaluation.statistics import bootstrap_mean, wilson
from loricate.records.schema import Aggregate, SampleRow

_WORST = {
    "edit_broken": 0.0,
    "edit_broken_from_base": 0.0,
    "latent_drift": 0.1,
    "edit_feature_distance": 0.01,
    "edit_ssim": 0.95,
    "reconstruction_psnr": 30.0,
}


def _row(sample: int, attack: str = "pgd", objective: str = "latent_shift", **values) -> SampleRow:
    place = {"subject": "base", "surface": "vae_encoder", "epsilon": 8 / 255, "seed": 0}
    return SampleRow(
        attack=attack, objective=objective, sample=sample, values=_WORST | values, **place
    )


def _find(rows, metric: str, attack: str = "pgd"):
    [found] = [a for a in aggregate(rows, 0) if (a.metric, a.attack) == (metric, attack)]
    return found


def test_rates_have_wilson_intervals() -> None:
    rows = [_row(i, edit_broken=float(i < 3)) for i in range(10)]
    found, expected = _find(rows, "edit_attack_success_rate"), wilson(3, 10)
    assert (found.value, found.low, found.high) == (0.3, expected.low, expected.high)
    assert (found.n, found.method, found.level) == (10, "wilson", 0.95)


def test_means_have_bootstrap_intervals() -> None:
    drifts = [0.1, 0.4, 0.2, 0.7]
    found = _find([_row(i, latent_drift=d) for i, d in enumerate(drifts)], "latent_drift")
    expected = bootstrap_mean(np.array(drifts), seed=0)
    assert (found.value, found.low, found.high) == (expected.value, expected.low, expected.high)
    assert found.value == pytest.approx(0.35)
    assert (found.surface, found.objective, found.epsilon) == (
        "vae_encoder",
        "latent_shift",
        8 / 255,
    )


def test_bookkeeping_is_no_metric() -> None:
    rows = [_row(i, objective_clean=0.0, delta_size=0.03, first_gradient=1.0) for i in range(2)]
    metrics = {a.metric for a in aggregate(rows, 0)}
    assert metrics == {
        "edit_attack_success_rate",
        "edit_broken_from_base_rate",
        "latent_drift",
        "edit_feature_distance",
        "edit_ssim",
        "reconstruction_psnr",
    }


@pytest.mark.parametrize("unknown", [math.nan, math.inf])
def test_what_is_not_known_everywhere_has_no_number(unknown: float) -> None:
    rows = [_row(0, latent_drift=0.2), _row(1, latent_drift=unknown)]
    assert "latent_drift" not in {a.metric for a in aggregate(rows, 0)}


def test_the_worst_case_is_per_sample_and_per_metric() -> None:
    rows = [
        _row(0, latent_drift=0.5, edit_ssim=0.9),
        _row(0, objective="latent_target", latent_drift=0.3, edit_ssim=0.6, edit_broken=1.0),
        _row(1, latent_drift=0.2, reconstruction_psnr=21.0),
        _row(1, objective="latent_target", latent_drift=0.6),
    ]
    first, second = sorted(worst_case(rows), key=lambda row: row.sample)
    assert first.values["latent_drift"] == 0.5
    assert first.values["edit_ssim"] == 0.6
    assert first.values["edit_broken"] == 1.0
    assert second.values["latent_drift"] == 0.6
    assert second.values["reconstruction_psnr"] == 21.0
    assert {(r.attack, r.objective, r.surface) for r in (first, second)} == {
        ("strongest", "worst_case", "pipeline")
    }
    assert _find(rows, "edit_attack_success_rate", "strongest").value == 0.5
    assert _find(rows, "latent_drift", "strongest").value == pytest.approx(0.55)


def test_noise_and_clean_rows_are_no_attack() -> None:
    rows = [
        _row(0, attack="random_noise", objective="none", latent_drift=9.0),
        _row(0, attack="none", objective="none", latent_drift=9.0),
    ]
    assert worst_case(rows) == []
    assert worst_case([*rows, _row(0)])[0].values["latent_drift"] == 0.1


def test_samples_that_one_attack_left_out_have_no_worst_case() -> None:
    rows = [_row(0, latent_drift=0.2), _row(1, latent_drift=0.4)]
    rows.append(_row(0, objective="edit_shift", latent_drift=0.3))
    found = _find(rows, "latent_drift", "strongest")
    assert (found.n, found.value) == (1, pytest.approx(0.3))


def test_radii_subjects_and_norms_are_kept_apart() -> None:
    rows = [_row(0), _row(0).model_copy(update={"epsilon": 4 / 255})]
    rows += [_row(0).model_copy(update={"subject": "hardened"})]
    rows += [_row(0).model_copy(update={"norm": "l2"})]
    assert len(worst_case(rows)) == 4
    keys = [(a.subject, a.epsilon, a.norm, a.attack, a.metric) for a in aggregate(rows, 0)]
    assert len(keys) == len(set(keys))


def test_variants_are_attacks_of_their_own() -> None:
    up, down = (_row(0, latent_drift=d).model_copy(update={"variant": v}) for v, d in _SIGNS)
    both = [up, down]
    assert {(a.variant, a.value) for a in aggregate(both, 0) if _is_drift(a, "pgd")} == {*_SIGNS}
    assert _find(both, "latent_drift", "strongest").value == 0.4
    # Whoever met only one of them has no worst case.
    alone = up.model_copy(update={"subject": "hardened"})
    assert {row.subject for row in worst_case([*both, alone])} == {"base"}


_SIGNS = (("ascent", 0.3), ("descent", 0.4))


def _is_drift(a: Aggregate, attack: str) -> bool:
    return (a.metric, a.attack) == ("latent_drift", attack)


def test_trainings_count_each_for_itself_and_together() -> None:
    drifts = {"encoder@0": [0.1, 0.3], "encoder@1": [0.5, 0.7]}
    rows = [
        _row(i, latent_drift=d, edit_broken=float(d > 0.4)).model_copy(update={"subject": name})
        for name, values in drifts.items()
        for i, d in enumerate(values)
    ]
    found = {a.subject: a for a in aggregate(rows, 0) if _is_drift(a, "pgd")}
    means = {name: a.value for name, a in found.items()}
    assert means == pytest.approx({"encoder@0": 0.2, "encoder@1": 0.6, "encoder": 0.4})
    together = found["encoder"]
    assert (together.n, together.method) == (2, "bootstrap, t over trainings")
    # Two trainings that differ say next to nothing.
    assert together.low < 0 < 1 < together.high
    rates = {a.subject: a.value for a in aggregate(rows, 0) if _is_rate(a)}
    assert rates == {"encoder@0": 0.0, "encoder@1": 1.0, "encoder": 0.5}


def test_what_no_training_did_may_happen_all_the_same() -> None:
    rows = [_row(i).model_copy(update={"subject": f"e@{s}"}) for s in range(3) for i in range(100)]
    [found] = [a for a in aggregate(rows, 0) if _is_rate(a) and a.subject == "e"]
    assert (found.value, found.low, found.n) == (0.0, 0.0, 100)
    assert found.high == pytest.approx(wilson(0, 100).high)


def test_two_rows_of_one_sample_are_refused() -> None:
    with pytest.raises(ShapeError, match="one row"):
        aggregate([_row(0), _row(0).model_copy(update={"seed": 1})], 0)


def _is_rate(a: Aggregate) -> bool:
    return (a.metric, a.attack) == ("edit_attack_success_rate", "pgd")


def test_no_rows_no_numbers() -> None:
    assert aggregate([], 0) == ()
