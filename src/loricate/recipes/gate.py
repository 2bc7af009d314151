"""A verdict on the record of a run by the caller's own thresholds; reads no weights."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from loricate.basics.errors import HostileFileError
from loricate.basics.spec import PixelLength, Radius, Spec
from loricate.evaluation.verdict import Evidence, Thresholds, decide
from loricate.records.io import RECORD_FILE, read_record
from loricate.records.schema import Aggregate, RunRecord, Verdict

__all__ = ["GateSpec", "folder_of", "gate"]


@dataclass(frozen=True, kw_only=True)
class GateSpec(Spec):
    """Thresholds of a gate; what is left out is as ``harden`` has it.

    Args:
        max_psnr_drop: Most clean reconstruction quality that may be lost, in dB.
        max_drift: Most relative distance between clean latents, hardened to base.
        max_alignment_drop: Most prompt alignment that may be lost, as a fraction.
        min_robust_gain: Least factor by which latent drift under attack shrinks.
        max_success_ratio: Most attack success on the hardened model, over the base's.
        min_success_over_noise: Least attack success on the base, over equal-norm noise.
        epsilon: Radius at which attack success is judged; that of the record if left out.
        trained_epsilon: Radius at which the gain is judged; that of the record if left out.
    """

    max_psnr_drop: Radius | None = None
    max_drift: Radius | None = None
    max_alignment_drop: Radius | None = None
    min_robust_gain: Radius | None = None
    max_success_ratio: Radius | None = None
    min_success_over_noise: Radius | None = None
    epsilon: PixelLength | None = None
    trained_epsilon: PixelLength | None = None


_SLACK: Final = 1e-6

_MEANING: Final[Mapping[str, str]] = {
    "max_psnr_drop": "psnr_drop",
    "max_drift": "clean_drift",
    "max_alignment_drop": "alignment_drop",
    "min_robust_gain": "drift_ratio",
    "max_success_ratio": "success_of_base",
    "min_success_over_noise": "success_over_noise",
    "epsilon": "epsilon",
    "trained_epsilon": "trained_epsilon",
}


def gate(run: Path, spec: GateSpec | None = None) -> tuple[RunRecord, Verdict]:
    """Judge a finished run anew, from the numbers and intervals in its record.

    A whole interval has to be on the right side. What the record does not hold, or leaves open,
    makes the verdict inconclusive and never a pass; the verdict in the record plays no part.

    Args:
        run: Folder of the run, or the record in it.
        spec: Thresholds; ``None`` takes those of ``harden``.

    Returns:
        The record, and the verdict of the gate.

    Raises:
        PrerequisiteError: There is no record.
        ConfigError: It does not follow the schema.
        UnsupportedError: It was written by a newer version.
        HostileFileError: Its numbers cannot be those of a run.
    """
    folder = folder_of(run)
    record = read_record(folder)
    _require_believable(record, folder / RECORD_FILE)
    evidence = Evidence(
        aggregates=record.aggregates, checks=record.checks, integrity=record.integrity
    )
    return record, decide(evidence, _thresholds(spec or GateSpec(), record.verdict))


def folder_of(run: Path) -> Path:
    """Folder of a run that is named by it or by the record in it."""
    return run.parent if run.name == RECORD_FILE else run


def _require_believable(record: RunRecord, path: Path) -> None:
    """Refuse intervals that no run leaves, before a whole one can be on the right side."""
    for each in record.aggregates:
        odd = [
            what
            for what, is_odd in (
                (f"n is {each.n}", each.n < 0),
                (f"the interval from {each.low:g} to {each.high:g} is none", each.low > each.high),
                (f"{each.value:g} lies outside of its interval", _is_outside(each)),
                (f"a level of {each.level:g}", not 0 < each.level < 1),
            )
            if is_odd
        ]
        if odd:
            name = f"{each.metric} of {each.subject} under {each.attack}"
            raise HostileFileError(path, reason=f"not a record to be believed, {name}: {odd[0]}")


def _is_outside(each: Aggregate) -> bool:
    # Ends are rounded on their own.
    slack = _SLACK * max(abs(each.low), abs(each.high), abs(each.value))
    return each.value < each.low - slack or each.value > each.high + slack


def _thresholds(spec: GateSpec, judged: Verdict) -> Thresholds:
    given = {_MEANING[each.name]: getattr(spec, each.name) for each in fields(spec)}
    recorded = {key: getattr(judged, key) for key in ("epsilon", "trained_epsilon")}
    chosen: dict[str, Any] = {
        key: recorded.get(key) if value is None else float(value) for key, value in given.items()
    }
    return Thresholds(**{key: value for key, value in chosen.items() if value is not None})
