"""A model card whose every number comes from the record."""

import json
from pathlib import Path

from loricate.basics.files import write_atomically
from loricate.records.condition import Condition
from loricate.records.names import NO_ATTACK, RANDOM_NOISE, STRONGEST, Metrics, is_replicate
from loricate.records.schema import Aggregate, RunRecord
from loricate.report.words import condition_label

__all__ = ["write_card"]

_SHOWN = (
    Metrics.ATTACK_SUCCESS,
    Metrics.LATENT_DRIFT,
    Metrics.PSNR,
    Metrics.EDIT_SSIM,
    Metrics.ALIGNMENT,
)


def write_card(out: Path, record: RunRecord) -> None:
    """Write ``README.md`` beside the record.

    Args:
        out: Run folder.
        record: What it says.
    """
    head = {
        "base_model": record.model,
        "library_name": "diffusers",
        "tags": ["lora", "stable-diffusion", "adversarial-robustness", "loricate"],
    }
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in head.items())
    parts = [
        f"---\n{front}\n---",
        f"# {record.title}",
        f"Verdict: **{record.verdict.status}**" + (" (quick run)" if record.quick else ""),
        _criteria(record),
        _numbers(record),
        "Every figure comes from `record.json`; pictures are in `report.html`.",
    ]
    write_atomically(out / "README.md", "\n\n".join(parts).encode() + b"\n")


def _criteria(record: RunRecord) -> str:
    rows = [
        f"| {c.requirement} | {_number(c.measured)} | {_word(c.passed)} |"
        for c in record.verdict.criteria
    ]
    return "\n".join(["| requirement | measured | met |", "|---|---|---|", *rows])


def _numbers(record: RunRecord) -> str:
    shown = [
        a
        for a in record.aggregates
        if a.metric in _SHOWN
        and a.attack in (NO_ATTACK, RANDOM_NOISE, STRONGEST)
        and not is_replicate(a.subject)
    ]
    rows = [_row(a) for a in shown]
    head = ["| subject | attack | metric | value | 95 % interval | n |", "|---" * 6 + "|"]
    return "\n".join([*head, *rows])


def _row(a: Aggregate) -> str:
    interval = f"{a.low:.3f} to {a.high:.3f}"
    cells = (
        a.subject,
        condition_label(Condition.of(a)),
        a.metric,
        f"{a.value:.3f}",
        interval,
        a.n,
    )
    return "| " + " | ".join(map(str, cells)) + " |"


def _number(measured: float | None) -> str:
    return "" if measured is None else f"{measured:.3g}"


def _word(passed: bool | None) -> str:
    return {True: "yes", False: "no", None: "undecided"}[passed]
