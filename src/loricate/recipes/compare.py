"""Runs side by side: the same numbers of several models, with intervals and paired tests."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from loricate.basics.errors import ConfigError, ConfigProblem, nearest
from loricate.evaluation.aggregates import Table, pivot, worst_case
from loricate.evaluation.statistics import (
    bootstrap_difference,
    holm,
    mcnemar_exact,
    signed_rank,
)
from loricate.records.condition import Condition
from loricate.records.io import ROWS_FILE, read_record, read_rows
from loricate.records.names import (
    BASE,
    HARDENED,
    NO_ATTACK,
    STRONGEST,
    Metrics,
    is_replicate,
    stem,
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
_BROKEN = "edit_broken"


class Column(NamedTuple):
    """A model of a run.

    Args:
        run: Name of the run.
        subject: Which of its models.
    """

    run: str
    subject: str


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
class Paired:
    """Whether two models break on different shares of the same samples.

    Args:
        first: A model.
        second: Another.
        epsilon: Radius in pixel units.
        norm: Norm of the ball.
        n: Samples both have.
        only_first: Samples that break on the first alone; of several trainings their mean.
        only_second: Samples that break on the second alone.
        difference: Share broken on the first less that on the second.
        low: Lower end of its interval, a bootstrap over samples and trainings.
        high: Upper end.
        p_value: Exact McNemar test, or of several trainings Wilcoxon's of their shares; corrected
            after Holm over every pair and radius compared.
    """

    first: Column
    second: Column
    epsilon: float
    norm: str
    n: int
    only_first: float
    only_second: float
    difference: float
    low: float
    high: float
    p_value: float


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
        paired=_paired(dict(zip(records, runs, strict=True)), columns) if is_paired else (),
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


_Samples = dict[tuple[str, int], float]
"""Whether the worst case breaks a sample, by training and sample."""

_Broken = dict[tuple[str, float], _Samples]
"""The same at each norm and radius."""


def _paired(paths: Mapping[str, Path], columns: Sequence[Column]) -> tuple[Paired, ...]:
    """The first hardened model against each other model; where there is none, the first model."""
    broken = {run: _broken(path) for run, path in paths.items()}
    tables = {column: broken[column.run][column.subject] for column in columns}
    first = next((c for c in columns if c.subject == HARDENED), columns[0])
    tests = [
        _test(first, second, at, _shares(ours, tables[second][at]))
        for second in columns
        for at, ours in sorted(tables[first].items())
        if second != first and at in tables[second]
    ]
    adjusted = holm([test.p_value for test in tests])
    return tuple(replace(t, p_value=p) for t, p in zip(tests, adjusted, strict=True))


def _broken(run: Path) -> Mapping[str, _Broken]:
    """Rows of each model, those of several trainings also under the name of their defense."""
    tables: dict[str, _Broken] = defaultdict(lambda: defaultdict(dict))
    rows = read_rows(run / ROWS_FILE) if (run / ROWS_FILE).is_file() else ()
    for row in worst_case(rows):
        if _BROKEN in row.values:
            for name in {row.subject, stem(row.subject)}:
                at = tables[name][row.norm, row.epsilon]
                at[row.subject, row.sample] = row.values[_BROKEN]
    return tables


def _shares(one: _Samples, two: _Samples) -> tuple[Table, Table]:
    """Both by training and shared sample: one training meets each of the other's.

    Of unlike numbers of trainings there are means, whose interval is over samples alone.
    """
    shared = {sample for _, sample in one} & {sample for _, sample in two}
    first, second = (
        pivot({key: value for key, value in each.items() if key[1] in shared})
        for each in (one, two)
    )
    if len(first) == len(second) or 1 in (len(first), len(second)):
        both = np.broadcast_arrays(first, second)
        return both[0], both[1]
    return first.mean(0, keepdims=True), second.mean(0, keepdims=True)


def _test(
    first: Column, second: Column, at: tuple[str, float], shares: tuple[Table, Table]
) -> Paired:
    norm, epsilon = at
    means = [table.mean(0) for table in shares]
    is_single = all(np.isin(mean, (0.0, 1.0)).all() for mean in means)
    more = bootstrap_difference(*shares, seed=0)
    return Paired(
        first=first,
        second=second,
        epsilon=epsilon,
        norm=norm,
        n=shares[0].shape[1],
        only_first=float(np.clip(means[0] - means[1], 0, None).sum()),
        only_second=float(np.clip(means[1] - means[0], 0, None).sum()),
        difference=more.value,
        low=more.low,
        high=more.high,
        p_value=mcnemar_exact(*means) if is_single else signed_rank(*means),
    )
