"""A made-up run folder: every part of a record, plausible and deterministic, without a model.

For tests and for work on the report. Its numbers are invented; nothing here is a result.
"""

import io
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loricate.records.io import RowLog, write_blob, write_record
from loricate.records.names import (
    NO_ATTACK,
    RANDOM_NOISE,
    STRONGEST,
    WORST_CASE,
    Metrics,
)
from loricate.records.schema import (
    Aggregate,
    BenignChange,
    Blob,
    Check,
    Criterion,
    EditRule,
    Environment,
    Integrity,
    RankRow,
    RunRecord,
    SampleRow,
    SpectrumRow,
    Training,
    Verdict,
)

__all__ = ["made_up_record", "write_made_up_run"]

_EPSILONS: Final = tuple(levels / 255 for levels in (2, 4, 8, 16))
_SUCCESS: Final = {
    "base": (0.06, 0.27, 0.71, 0.97),
    "hardened": (0.01, 0.04, 0.16, 0.52),
    "control_plain": (0.05, 0.25, 0.70, 0.96),
    "control_noise": (0.04, 0.19, 0.58, 0.93),
    "control_truncation": (0.06, 0.24, 0.66, 0.95),
}
_DRIFT: Final = {
    "base": (0.19, 0.38, 0.71, 1.12),
    "hardened": (0.06, 0.12, 0.23, 0.47),
    "control_plain": (0.19, 0.37, 0.70, 1.10),
    "control_noise": (0.14, 0.29, 0.57, 0.98),
    "control_truncation": (0.17, 0.34, 0.65, 1.05),
}
_CLEAN: Final = {
    "base": (28.41, 0.931, 0.0, 0.874),
    "hardened": (28.07, 0.926, 0.061, 0.869),
    "control_plain": (28.52, 0.932, 0.044, 0.873),
    "control_noise": (28.20, 0.928, 0.053, 0.871),
    "control_truncation": (28.02, 0.921, 0.062, 0.861),
}
_CHECKS: Final = (
    ("zero_gradient", "ok", "base", "the gradient is nonzero on every sample"),
    ("stationary_start", "ok", "base", "every restart left its starting point"),
    ("random_at_least_pgd", "ok", "hardened", "noise reached 11 % of what PGD reached"),
    ("more_epsilon_not_stronger", "ok", "hardened", "success rises with epsilon"),
    ("step_curve", "warning", "hardened", "100 steps gained 3 % over 50"),
    ("knowledge_order", "ok", "hardened", "transfer broke 4 %, white box 16 %"),
    ("budget_after_rounding", "skipped", "control_truncation", "its pictures were not kept"),
)
_CAPTIONS: Final = {"clean": "a made-up face", "perturbation": "10 times"}
_DISTANCES: Final = {
    "edit_attacked_base": {"feature_distance": 0.613, "ssim": 0.412, "broken": 1.0},
    "edit_attacked_hardened": {"feature_distance": 0.087, "ssim": 0.957, "broken": 0.0},
}
_MODULES: Final = (
    *(
        f"encoder.down_blocks.{index // 4}.resnets.{index // 2 % 2}.conv{index % 2 + 1}"
        for index in range(12)
    ),
    "encoder.mid_block.attentions.0.to_q",
    "encoder.mid_block.attentions.0.to_v",
)


def write_made_up_run(directory: Path, *, kind: str = "harden", pictures: int = 3) -> RunRecord:
    """Write a complete run folder without a model, and return its record.

    Args:
        directory: Where to put it.
        kind: ``harden``, or ``evaluate`` for a record without training.
        pictures: Picture rows; 0 leaves all pictures out.

    Returns:
        The record that was written.
    """
    rows = RowLog(directory / "rows.jsonl")
    rows.extend(_rows())
    record = made_up_record(kind=kind).model_copy(
        update={"blobs": tuple(_blobs(directory, pictures)), "rows_path": "rows.jsonl"}
    )
    write_record(directory, record)
    return record


def made_up_record(*, kind: str = "harden") -> RunRecord:
    """A record with every part filled in, except for blobs and rows.

    Args:
        kind: ``harden``, or ``evaluate`` for a record without training.

    Returns:
        The same record at every call.
    """
    trained = kind == "harden"
    return RunRecord.model_validate(
        {
            "kind": kind,
            "created": datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC),
            "title": "A made-up run",
            "model": "emoji-sd",
            "verdict": _verdict(),
            "config": _config(),
            "environment": _environment(),
            "aggregates": tuple(_aggregates()),
            "checks": tuple(_check(*row) for row in _CHECKS),
            "edit_rule": _edit_rule(),
            "training": _training() if trained else None,
            "integrity": _integrity() if trained else None,
            "spectra": tuple(_spectra()) if trained else (),
            "outputs": {"adapter": "adapter", "vae": "vae", "config": "config.toml"},
        }
    )


def _config() -> dict[str, object]:
    attack = {"attack": "pgd", "steps": 100, "n_restarts": 5}
    training = {"steps": 600, "rank_budget": 0.1, "epsilon": 4 / 255, "anchor_weight": 1.0}
    return {"seed": 0, "model": "emoji-sd", "training": training, "evaluation": attack}


def _environment() -> Environment:
    return Environment(
        loricate="0.1.0",
        python="3.11.7",
        torch="2.13.0",
        diffusers="0.36.0",
        transformers="5.0.0",
        peft="0.18.0",
        platform="Linux x86_64",
        cpu_count=2,
        threads=2,
        device="cpu",
        seconds={"spectrum": 2.4, "training": 262.0, "evaluation": 318.5, "report": 3.1},
    )


def _criteria() -> Iterator[Criterion]:
    lines = (
        ("base_success_over_noise", "the attack beats noise", 35.5, 4.0, 16.0, "ratio"),
        ("hardened_success_of_base", "the attack is halved", 0.225, 0.5, 0.25, "ratio"),
        ("latent_drift_ratio", "latent drift is halved", 3.17, 2.0, 4.0, "ratio"),
        ("reconstruction_psnr_drop", "at most 1 dB is lost", 0.34, 1.0, 0.3, "dB"),
        ("clean_latent_drift", "clean latents stay", 0.061, 0.1, 0.05, "fraction"),
        ("prompt_alignment_drop", "the prompt is followed", 0.005, 0.03, 0.01, "fraction"),
    )
    for name, requirement, measured, threshold, aim, unit in lines:
        yield Criterion.model_validate(
            {
                "name": name,
                "requirement": requirement,
                "measured": measured,
                "threshold": threshold,
                "aim": aim,
                "unit": unit,
                "passed": True,
            }
        )
    yield Criterion(name="integrity", requirement="the base is untouched", passed=True)


def _verdict() -> Verdict:
    return Verdict(
        status="pass", criteria=tuple(_criteria()), epsilon=8 / 255, trained_epsilon=4 / 255
    )


def _aggregates() -> Iterator[Aggregate]:
    yield from _success_aggregates()
    for subject, drifts in _DRIFT.items():
        for epsilon, drift in zip(_EPSILONS, drifts, strict=True):
            where = ("vae_encoder", STRONGEST, WORST_CASE, epsilon)
            yield _mean(subject, where, Metrics.LATENT_DRIFT, drift, 0.05 * drift)
    clean_metrics = (Metrics.PSNR, Metrics.SSIM, Metrics.LATENT_DRIFT, Metrics.ALIGNMENT)
    for subject, values in _CLEAN.items():
        for metric, value in zip(clean_metrics, values, strict=True):
            where = ("vae_encoder", NO_ATTACK, NO_ATTACK, 0.0)
            yield _mean(subject, where, metric, value, 0.01 * value)


def _success_aggregates() -> Iterator[Aggregate]:
    for subject, rates in _SUCCESS.items():
        for epsilon, rate in zip(_EPSILONS, rates, strict=True):
            yield _rate(subject, (STRONGEST, WORST_CASE), epsilon, rate)
            yield _rate(subject, ("pgd", "edit_shift"), epsilon, 0.95 * rate)
            yield _rate(subject, ("pgd", "latent_shift"), epsilon, 0.7 * rate)
            yield _rate(subject, (RANDOM_NOISE, NO_ATTACK), epsilon, 0.02)


def _rate(subject: str, how: tuple[str, str], epsilon: float, rate: float) -> Aggregate:
    n, level = 100, 1.96
    half = level * math.sqrt(max(rate * (1 - rate), 1e-3) / n)
    return Aggregate(
        subject=subject,
        surface="edit",
        attack=how[0],
        objective=how[1],
        epsilon=epsilon,
        metric=Metrics.ATTACK_SUCCESS,
        n=n,
        value=rate,
        low=max(0.0, rate - half),
        high=min(1.0, rate + half),
        method="wilson",
    )


def _mean(
    subject: str, where: tuple[str, str, str, float], metric: str, value: float, half: float
) -> Aggregate:
    surface, attack, objective, epsilon = where
    return Aggregate(
        subject=subject,
        surface=surface,
        attack=attack,
        objective=objective,
        epsilon=epsilon,
        metric=metric,
        n=100,
        value=value,
        low=value - half,
        high=value + half,
        method="bootstrap",
    )


def _check(name: str, level: str, subject: str, message: str) -> Check:
    return Check.model_validate(
        {"name": name, "level": level, "subject": subject, "message": message}
    )


def _edit_rule() -> EditRule:
    return EditRule(
        feature_threshold=0.182,
        ssim_threshold=0.934,
        visible_ssim=0.9,
        percentile=0.95,
        n=300,
        benign=(
            BenignChange(kind="random_noise", n=100, feature_distance=0.121, ssim=0.958),
            BenignChange(kind="jpeg_75", n=100, feature_distance=0.166, ssim=0.941),
            BenignChange(kind="shift_1px", n=100, feature_distance=0.203, ssim=0.917),
        ),
    )


def _training() -> Training:
    noise = np.random.default_rng(0)
    curves = tuple(
        {
            "step": float(step),
            "robust": 0.9 * math.exp(-step / 150) + 0.16 + 0.02 * noise.standard_normal(),
            "anchor": 0.04 * (1 - math.exp(-step / 60)) + 0.004 * noise.standard_normal(),
            "epsilon": min(1.0, step / 200) * 4 / 255,
            "rank": 148.0 - 4.0 * min(step // 100, 4),
        }
        for step in range(0, 601, 5)
    )
    ranks = tuple(
        RankRow(
            module=module,
            rank_start=8 + index % 5,
            rank_end=max(0, round(18 - 1.6 * index + 4 * math.sin(index))),
            rank_max=64,
            importance=math.exp(-0.3 * index),
            parameters=2048 * (1 + index),
        )
        for index, module in enumerate(_MODULES)
    )
    return Training(
        curves=curves,
        ranks=ranks,
        seconds=262.0,
        parameters_adapter=sum(row.parameters for row in ranks),
        parameters_target=1_920_000,
    )


def _integrity() -> Integrity:
    return Integrity(
        base_digest_before="3f" * 32,
        base_digest_after="3f" * 32,
        gain_zero_identical=True,
        merged_max_difference=2.4e-6,
        adapter_digest="a7" * 32,
    )


def _spectra() -> Iterator[SpectrumRow]:
    for index, module in enumerate(_MODULES):
        values = 4.0 * np.exp(-np.arange(48) / (6.0 + 2 * index)) + 0.05
        energy = values**2 / np.sum(values**2)
        share = values / values.sum()
        yield SpectrumRow(
            module=module,
            shape=(64, 32, 3, 3) if "conv" in module else (64, 64),
            singular_values=tuple(values.tolist()),
            stable_rank=float(1 / energy[0]),
            effective_rank=float(np.exp(-np.sum(share * np.log(share)))),
        )


def _rows() -> Iterator[SampleRow]:
    for subject in ("base", "hardened"):
        for sample in range(4):
            yield SampleRow(
                subject=subject,
                surface="edit",
                attack=STRONGEST,
                objective=WORST_CASE,
                epsilon=8 / 255,
                seed=0,
                sample=sample,
                values={"latent_drift": _DRIFT[subject][2] + 0.01 * sample},
            )


def _blobs(directory: Path, pictures: int) -> Iterator[Blob]:
    for row in range(pictures):
        columns = _picture_row(row)
        for column, picture in columns.items():
            name = f"row/{row}/{column}"
            data = _DISTANCES.get(column, {})
            caption = _CAPTIONS.get(column, "")
            yield write_blob(directory, name, _png(picture), caption=caption, data=data)
    for index in range(min(pictures, 2)):
        clean = _face(index + 7)
        for side, picture in (("clean", clean), ("changed", np.roll(clean, 1, axis=1))):
            name = f"threshold/{index}/{side}"
            data = {"feature_distance": 0.182, "ssim": 0.934}
            yield write_blob(directory, name, _png(picture), caption=side, data=data)


def _picture_row(seed: int) -> dict[str, NDArray[np.float64]]:
    noise = np.random.default_rng(seed)
    clean = _face(seed)
    delta = noise.choice([-8, 8], clean.shape) / 255
    broken = noise.uniform(size=(6, 6, 3)).repeat(8, axis=0).repeat(8, axis=1)
    return {
        "clean": clean,
        "perturbation": 0.5 + 10 * delta,
        "attacked": clean + delta,
        "edit_clean_base": clean[:, ::-1] * 0.9 + 0.1,
        "edit_clean_hardened": clean[:, ::-1] * 0.9 + 0.09,
        "edit_attacked_base": 0.4 * clean + 0.6 * broken,
        "edit_attacked_hardened": clean[:, ::-1] * 0.9 + 0.08,
    }


def _face(seed: int) -> NDArray[np.float64]:
    """A disk with two eyes on a flat background, 48 pixels wide."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48] / 47.0 - 0.5
    picture = np.ones((48, 48, 3)) * noise.uniform(0.7, 0.95, 3)
    picture[x**2 + y**2 < 0.16] = noise.uniform(0.2, 0.9, 3)
    for side in (-0.15, 0.15):
        picture[(x - side) ** 2 + (y + 0.08) ** 2 < 0.004] = 0.12
    picture[(abs(x**2 + (y - 0.02) ** 2 - 0.06) < 0.012) & (y > 0.08)] = 0.12
    return picture


def _png(picture: NDArray[np.float64]) -> bytes:
    pixels = np.rint(np.clip(picture, 0.0, 1.0) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
