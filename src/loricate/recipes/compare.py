"""Runs side by side: the same numbers of several models, with intervals and paired tests."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from loricate.basics.errors import ConfigError, ConfigProblem, nearest
from loricate.recipes._paired import Column, Paired, paired
from loricate.records.condition import Condition
from loricate.records.io import read_record
from loricate.records.names import (
    BASE,
    HARDENED,
    NO_ATTACK,
    STRONGEST,
    Metrics,
    is_replicate,
)
from loricate.records.schema import Aggregate, RunRecord

__all__ = ["MAIN_METRICS", "Column", "Comparison", "Difference", "Line", "Paired", "compare"]

MAIN_METRICS = (
    Metrics.ATTACK_SUCCESS,
    Metrics.LATENT_DRIFT,
    Metrics.PSNR,
    Metrics.ALIGNMENT,
)
"""What is shown unless other metrics are asked for."""

_SHARED_SETTINGS = ("model", "images", "judge", "seed", "plan")
_PAIRED_SETTINGS = ("model", "images", "seed")


class Line(NamedTuple):
    """One row of the table.

    Args:
        metric: What was measured.
        condition: Under which attack.
    """

    metric: str
    condition: Condition


@final
@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting in which runs differ, so that their numbers do not answer the same question.

    Args:
        key: Dotted name of the setting.
        values: Its value in each run; ``None`` where the run does not have it.
    """

    key: str
    values: tuple[object, ...]


@final
@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table of models by conditions.

    Args:
        columns: The models, the base first.
        rows: For each condition, the aggregate of each column that has it.
        differences: Settings that differ; empty where the runs may be compared as they are.
        paired: Tests on the samples the runs share.
        quick: Names of shortened runs.
        unreliable: For each run, the checks that came out as errors.
    """

    columns: tuple[Column, ...]
    rows: Mapping[Line, Mapping[Column, Aggregate]]
    differences: tuple[Difference, ...]
    paired: tuple[Paired, ...]
    quick: tuple[str, ...]
    unreliable: Mapping[str, tuple[str, ...]]


def compare(
    runs: Sequence[Path], *, subjects: Sequence[str] = (), metrics: Sequence[str] = ()
) -> Comparison:
    """Put the records of runs side by side.

    Args:
        runs: Run folders; one shows its own models side by side.
        subjects: Models to show; by default every model of a single run, or the base of the first
            run and the hardened model of each.
        metrics: Metrics to show, by default ``MAIN_METRICS``.

    Returns:
        The table, and what speaks against comparing.

    Raises:
        ConfigError: A subject or metric is in none of the runs, or a run is named twice.
        PrerequisiteError: A folder holds no record.
    """
    records = {name: read_record(path) for name, path in _names(runs).items()}
    columns = _columns(records, subjects)
    wanted = tuple(metrics) or MAIN_METRICS
    if metrics:
        _require_known(
            "metric", metrics, (a.metric for r in records.values() for a in r.aggregates)
        )
    differences = tuple(_differences(records))
    is_paired = not {d.key.partition(".")[0] for d in differences} & {*_PAIRED_SETTINGS}
    return Comparison(
        columns=columns,
        rows=_rows(records, columns, wanted),
        differences=differences,
        paired=paired(dict(zip(records, runs, strict=True)), columns) if is_paired else (),
        quick=tuple(name for name, record in records.items() if record.quick),
        unreliable={name: errors for name, r in records.items() if (errors := _errors(r))},
    )


def _names(runs: Sequence[Path]) -> dict[str, Path]:
    """Folder names, longer where two are the same."""
    resolved = [path.resolve() for path in runs]
    if len(set(resolved)) < len(resolved):
        problem = ConfigProblem(key="RUN", expected="every run once", got=", ".join(map(str, runs)))
        raise ConfigError(problem)
    short = [path.name for path in resolved]
    names = [n if short.count(n) == 1 else str(p) for n, p in zip(short, runs, strict=True)]
    return dict(zip(names, runs, strict=True))


def _columns(records: Mapping[str, RunRecord], subjects: Sequence[str]) -> tuple[Column, ...]:
    present = {
        name: list(dict.fromkeys(a.subject for a in record.aggregates))
        for name, record in records.items()
    }
    if subjects:
        _require_known("subject", subjects, (s for found in present.values() for s in found))
    chosen = []
    for index, (name, found) in enumerate(present.items()):
        own = [subject for subject in found if not is_replicate(subject)]
        usual = own if len(records) == 1 else [BASE, HARDENED] if index == 0 else [HARDENED]
        chosen += [Column(name, each) for each in subjects or usual if each in found]
    return tuple(chosen)


def _require_known(key: str, asked: Sequence[str], known: Iterable[str]) -> None:
    names = list(dict.fromkeys(known))
    for each in asked:
        if each not in names:
            expected = f"one of {', '.join(names)}"
            close = nearest(each, names)
            raise ConfigError(ConfigProblem(key=key, expected=expected, got=each, nearest=close))


def _rows(
    records: Mapping[str, RunRecord], columns: Sequence[Column], metrics: Sequence[str]
) -> dict[Line, dict[Column, Aggregate]]:
    table: dict[Line, dict[Column, Aggregate]] = {}
    for column in columns:
        for a in records[column.run].aggregates:
            if a.subject == column.subject and a.metric in metrics:
                table.setdefault(Line(a.metric, Condition.of(a)), {})[column] = a

    def place(line: Line) -> tuple[object, ...]:
        attack = line.condition.attack
        return metrics.index(line.metric), attack != NO_ATTACK, attack != STRONGEST, line.condition

    return {line: table[line] for line in sorted(table, key=place)}


def _differences(records: Mapping[str, RunRecord]) -> Iterable[Difference]:
    flat = [dict(_flat(record)) for record in records.values()]
    for key in dict.fromkeys(key for each in flat for key in each):
        values = tuple(each.get(key) for each in flat)
        if any(value != values[0] for value in values):
            yield Difference(key=key, values=values)


def _flat(record: RunRecord) -> Iterable[tuple[str, object]]:
    """Settings that the numbers depend on, whatever the defense."""
    for key in _SHARED_SETTINGS:
        yield from _leaves(key, record.config.get(key))
    if record.edit_rule is not None:
        yield "edit_rule.feature_threshold", round(record.edit_rule.feature_threshold, 4)
        yield "edit_rule.ssim_threshold", round(record.edit_rule.ssim_threshold, 4)


def _leaves(key: str, value: object) -> Iterable[tuple[str, object]]:
    match value:
        case dict():
            for name, child in value.items():
                yield from _leaves(f"{key}.{name}", child)
        case list():
            for index, child in enumerate(value):
                yield from _leaves(f"{key}.{index}", child)
        case _:
            yield key, value


def _errors(record: RunRecord) -> tuple[str, ...]:
    return tuple(f"{c.name} ({c.subject})" for c in record.checks if c.level == "error")
