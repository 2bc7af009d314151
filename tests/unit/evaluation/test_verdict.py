import math
from dataclasses import replace

import pytest

from loricate.evaluation.verdict import Evidence, Thresholds, decide
from loricate.records.schema import Aggregate, Check, Integrity, Verdict

_EPSILON = 8 / 255
_OK = Check(name="zero_gradient", level="ok", subject="base", message="")
_PROOF = Integrity(
    base_digest_before="d",
    base_digest_after="d",
    gain_zero_identical=True,
    merged_max_difference=0.0,
)
_NUMBERS = {
    ("base", "edit_attack_success_rate", "strongest"): (0.8, 0.7, 0.9),
    ("base", "edit_attack_success_rate", "random_noise"): (0.02, 0.0, 0.1),
    ("hardened", "edit_attack_success_rate", "strongest"): (0.2, 0.1, 0.3),
    ("hardened", "latent_drift_reduction", "strongest"): (4.0, 3.5, 4.5),
    ("hardened", "reconstruction_psnr_loss", "none"): (0.5, 0.4, 0.6),
    ("hardened", "latent_drift", "none"): (0.05, 0.04, 0.06),
    ("hardened", "prompt_alignment_loss", "none"): (0.01, 0.0, 0.02),
}
_BASE, _NOISE, _HARDENED, _REDUCTION, _PSNR_LOSS, _CLEAN_DRIFT, _ALIGNMENT_LOSS = _NUMBERS


def _aggregate(key: tuple[str, str, str], numbers: tuple[float, float, float]) -> Aggregate:
    subject, metric, attack = key
    value, low, high = numbers
    return Aggregate(
        subject=subject,
        surface="edit",
        attack=attack,
        objective="worst_case",
        epsilon=0.0 if attack == "none" else _EPSILON,
        metric=metric,
        n=100,
        value=value,
        low=low,
        high=high,
        method="wilson",
    )


def _evidence(changes: dict[tuple[str, str, str], tuple[float, float, float] | None]) -> Evidence:
    numbers = {key: value for key, value in (_NUMBERS | changes).items() if value is not None}
    aggregates = [_aggregate(key, value) for key, value in numbers.items()]
    return Evidence(aggregates=aggregates, checks=[_OK], integrity=_PROOF)


def _passed(verdict: Verdict, name: str) -> bool | None:
    return next(c.passed for c in verdict.criteria if c.name == name)


def test_full_evidence_passes() -> None:
    verdict = decide(_evidence({}), Thresholds())
    assert verdict.status == "pass"
    measured = {c.name: c.measured for c in verdict.criteria}
    assert measured == {
        "base_success_over_noise": pytest.approx(40.0),
        "hardened_success_of_base": pytest.approx(0.25),
        "latent_drift_ratio": pytest.approx(4.0),
        "reconstruction_psnr_drop": pytest.approx(0.5),
        "clean_latent_drift": pytest.approx(0.05),
        "prompt_alignment_drop": pytest.approx(0.01),
        "integrity": None,
        "sanity_checks": 0.0,
    }
    assert "linf 8/255" in verdict.criteria[0].requirement


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("base_success_over_noise", {_NOISE: (0.3, 0.2, 0.4)}),
        ("base_success_over_noise", {_BASE: (0.0, 0.0, 0.04), _NOISE: (0.0, 0.0, 0.04)}),
        ("hardened_success_of_base", {_HARDENED: (0.41, 0.3, 0.5)}),
        ("latent_drift_ratio", {_REDUCTION: (1.9, 1.8, 2.1)}),
        ("reconstruction_psnr_drop", {_PSNR_LOSS: (1.1, 0.9, 1.2)}),
        ("clean_latent_drift", {_CLEAN_DRIFT: (0.11, 0.09, 0.12)}),
        ("prompt_alignment_drop", {_ALIGNMENT_LOSS: (0.04, 0.02, 0.06)}),
    ],
)
def test_a_missed_floor_fails(name: str, change: dict[tuple[str, str, str], tuple]) -> None:
    verdict = decide(_evidence(change), Thresholds())
    assert _passed(verdict, name) is False
    assert verdict.status == "fail"


@pytest.mark.parametrize("key", _NUMBERS)
def test_missing_evidence_is_not_a_pass(key: tuple[str, str, str]) -> None:
    verdict = decide(_evidence({key: None}), Thresholds())
    assert verdict.status == "inconclusive"
    assert None in [c.passed for c in verdict.criteria]


@pytest.mark.parametrize("key", _NUMBERS)
def test_nan_is_missing_evidence(key: tuple[str, str, str]) -> None:
    verdict = decide(_evidence({key: (math.nan, 0.0, 1.0)}), Thresholds())
    assert verdict.status == "inconclusive"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("base_success_over_noise", {_NOISE: (0.02, 0.0, 0.7)}),
        ("hardened_success_of_base", {_HARDENED: (0.2, 0.0, 0.7)}),
        ("latent_drift_ratio", {_REDUCTION: (2.1, 1.9, 2.3)}),
        ("reconstruction_psnr_drop", {_PSNR_LOSS: (0.9, 0.7, 1.1)}),
        ("clean_latent_drift", {_CLEAN_DRIFT: (0.095, 0.09, 0.101)}),
        ("prompt_alignment_drop", {_ALIGNMENT_LOSS: (0.02, -0.01, 0.05)}),
    ],
)
def test_intervals_that_reach_across_leave_it_open(name: str, change: dict) -> None:
    verdict = decide(_evidence(change), Thresholds())
    assert _passed(verdict, name) is None
    assert verdict.status == "inconclusive"


def test_two_answers_to_one_question_are_none() -> None:
    evidence = _evidence({})
    doubled = replace(evidence, aggregates=[*evidence.aggregates, evidence.aggregates[0]])
    assert _passed(decide(doubled, Thresholds()), "base_success_over_noise") is None


def test_noise_that_never_breaks_gives_an_infinite_ratio() -> None:
    verdict = decide(_evidence({_NOISE: (0.0, 0.0, 0.04)}), Thresholds())
    assert verdict.status == "pass"
    assert verdict.criteria[0].measured == math.inf


def test_another_epsilon_or_norm_is_no_evidence() -> None:
    for thresholds in (Thresholds(epsilon=4 / 255), Thresholds(norm="l2")):
        verdict = decide(_evidence({}), thresholds)
        assert _passed(verdict, "base_success_over_noise") is None


@pytest.mark.parametrize("subject", ["hardened", "hardened@1"])
def test_an_error_check_fails_and_a_failure_outweighs_an_open_question(subject: str) -> None:
    error = Check(name="knowledge_order", level="error", subject=subject, message="")
    evidence = replace(_evidence({_BASE: None}), checks=[_OK, error])
    verdict = decide(evidence, Thresholds())
    assert verdict.status == "fail"
    assert verdict.criteria[-1].note == "knowledge_order"


def test_a_warning_does_not_fail() -> None:
    warning = Check(name="step_curve", level="warning", subject="base", message="")
    evidence = replace(_evidence({}), checks=[_OK, warning])
    assert decide(evidence, Thresholds()).status == "pass"


def test_skipped_checks_are_no_evidence() -> None:
    skipped = Check(name="zero_gradient", level="skipped", subject="base", message="")
    verdict = decide(replace(_evidence({}), checks=[skipped]), Thresholds())
    assert _passed(verdict, "sanity_checks") is None


def test_integrity_decides() -> None:
    broken = _PROOF.model_copy(update={"base_digest_after": "e"})
    assert decide(replace(_evidence({}), integrity=broken), Thresholds()).status == "fail"
    missing = decide(replace(_evidence({}), integrity=None), Thresholds())
    assert missing.status == "inconclusive"


def test_no_evidence_at_all_is_inconclusive() -> None:
    verdict = decide(Evidence(), Thresholds())
    assert verdict.status == "inconclusive"
    assert {c.passed for c in verdict.criteria} == {None}
