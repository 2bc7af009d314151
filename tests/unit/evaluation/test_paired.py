"""Base and hardened are compared on the pictures both were attacked on."""

import pytest

from loricate.evaluation.paired import compare
from loricate.records.schema import Aggregate, SampleRow


def _row(sample: int, subject: str, *, attack: str = "pgd", **values: float) -> SampleRow:
    measured = {
        "latent_drift": 0.4,
        "edit_broken": 0.0,
        "edit_broken_from_base": 0.0,
        "edit_feature_distance": 0.0,
        "edit_ssim": 1.0,
        "reconstruction_psnr": 26.0,
        "prompt_alignment": 1.0,
    }
    return SampleRow(
        subject=subject,
        surface="vae_encoder",
        attack=attack,
        objective="none" if attack == "none" else "latent_shift",
        epsilon=0.0 if attack == "none" else 8 / 255,
        seed=0,
        sample=sample,
        values=measured | values,
    )


def _found(rows: list[SampleRow]) -> dict[str, Aggregate]:
    return {a.metric: a for a in compare(rows, 0)}


def test_a_constant_factor_is_found_without_uncertainty() -> None:
    rows = [_row(i, "base", latent_drift=0.2 + 0.1 * i) for i in range(5)]
    rows += [_row(i, "hardened", latent_drift=0.1 + 0.05 * i) for i in range(5)]
    found = _found(rows)["latent_drift_reduction"]
    assert (found.subject, found.attack, found.n) == ("hardened", "strongest", 5)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_saved_edits_are_a_difference_of_rates() -> None:
    rows = [_row(i, "base", edit_broken=float(i < 3)) for i in range(4)]
    rows += [_row(i, "hardened", edit_broken=float(i < 1)) for i in range(4)]
    found = _found(rows)["edit_attack_success_reduction"]
    assert found.value == pytest.approx(0.5)
    assert found.low <= 0.5 <= found.high


def test_clean_loss_is_measured_without_attack() -> None:
    rows = [_row(i, "base", attack="none", reconstruction_psnr=20.0 + i) for i in range(3)]
    rows += [_row(i, "hardened", attack="none", reconstruction_psnr=19.5 + i) for i in range(3)]
    found = _found(rows)
    assert found.keys() == {"reconstruction_psnr_loss", "prompt_alignment_loss"}
    assert found["prompt_alignment_loss"].value == 0.0
    loss = found["reconstruction_psnr_loss"]
    assert loss.attack == "none"
    assert (loss.value, loss.low, loss.high) == pytest.approx((0.5, 0.5, 0.5))


def test_unmeasured_alignment_is_no_loss() -> None:
    subjects = ("base", "hardened")
    rows = [_row(0, s, attack="none", prompt_alignment=float("nan")) for s in subjects]
    assert _found(rows).keys() == {"reconstruction_psnr_loss"}


def test_only_shared_samples_count_and_controls_do_not() -> None:
    rows = [_row(0, "base"), _row(1, "base"), _row(1, "hardened"), _row(1, "control_plain")]
    assert {a.n for a in compare(rows, 0)} == {1}
    assert compare([_row(0, "base"), _row(0, "control_plain")], 0) == ()
