"""Runs side by side: the same numbers of several models, with intervals and paired tests."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, final

from loricate.basics.errors import ConfigError, ConfigProblem, nearest
from loricate.evaluation.aggregates import worst_case
from loricate.evaluation.statistics import holm, mcnemar_exact
from loricate.records.io import read_record, read_rows
from loricate.records.names import BASE, HARDENED, NO_ATTACK, STRONGEST, Metrics
from loricate.records.schema import Aggregate, RunRecord, SampleRow

__all__ = ["MAIN_METRICS", "Column", "Comparison", "Condition", "Difference", "Paired", "compare"]

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


@final
@dataclass(frozen=True, order=True)
class Condition:
    """What was measured under which attack; one row of the table.

    Args:
        surface: What was attacked.
        attack: Registry key, ``none`` for clean inputs.
        objective: Towards what.
        norm: Norm of the budget.
        epsilon: Radius in domain units.
        metric: What was measured.
    """

    surface: str
    attack: str
    objective: str
    norm: str
    epsilon: float
    metric: str

    @classmethod
    def of(cls, a: Aggregate) -> "Condition":
        """Condition of an aggregate."""
        return cls(a.surface, a.attack, a.objective, a.norm, float(a.epsilon), a.metric)


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
    """Whether two hardened models break on different shares of the same samples.

    Args:
        first: Name of a run.
        second: Name of another.
        epsilon: Radius in pixel units.
        norm: Norm of the ball.
        n: Samples both runs have.
        only_first: Samples broken in the first run alone.
        only_second: Samples broken in the second run alone.
        p_value: Exact McNemar test, corrected after Holm over every pair and radius compared.
    """

    first: str
    second: str
    epsilon: float
    norm: str
    n: int
    only_first: int
    only_second: int
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
    rows: Mapping[Condition, Mapping[Column, Aggregate]]
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
        paired=_paired(runs, records) if is_paired else (),
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
        usual = found if len(records) == 1 else [BASE, HARDENED] if index == 0 else [HARDENED]
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
) -> dict[Condition, dict[Column, Aggregate]]:
    table: dict[Condition, dict[Column, Aggregate]] = {}
    for column in columns:
        for a in records[column.run].aggregates:
            if a.subject == column.subject and a.metric in metrics:
                table.setdefault(Condition.of(a), {})[column] = a

    def place(condition: Condition) -> tuple[object, ...]:
        kind = condition.attack != NO_ATTACK, condition.attack != STRONGEST
        return metrics.index(condition.metric), *kind, condition

    return {condition: table[condition] for condition in sorted(table, key=place)}


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


_Broken = dict[tuple[str, float], dict[int, bool]]


def _paired(runs: Sequence[Path], records: Mapping[str, RunRecord]) -> tuple[Paired, ...]:
    """Hardened against hardened, the first run against each other one."""
    found: dict[str, _Broken] = {}
    for path, (name, record) in zip(runs, records.items(), strict=True):
        if record.rows_path is not None and (path / record.rows_path).is_file():
            found[name] = _broken(read_rows(path / record.rows_path))
    if len(found) < 2:
        return ()
    (first, broken), *others = found.items()
    tests = [
        _test(first, second, at, broken[at], theirs[at])
        for second, theirs in others
        for at in sorted(broken.keys() & theirs.keys())
    ]
    adjusted = holm([test.p_value for test in tests])
    return tuple(replace(t, p_value=p) for t, p in zip(tests, adjusted, strict=True))


def _broken(rows: Iterable[SampleRow]) -> _Broken:
    """Which samples the worst case of each radius breaks on the hardened model."""
    table: _Broken = {}
    for row in worst_case(row for row in rows if row.subject == HARDENED):
        if _BROKEN in row.values:
            table.setdefault((row.norm, row.epsilon), {})[row.sample] = bool(row.values[_BROKEN])
    return table


def _test(
    first: str, second: str, at: tuple[str, float], one: dict[int, bool], two: dict[int, bool]
) -> Paired:
    shared = sorted(one.keys() & two.keys())
    ours, theirs = [one[s] for s in shared], [two[s] for s in shared]
    norm, epsilon = at
    return Paired(
        first=first,
        second=second,
        epsilon=epsilon,
        norm=norm,
        n=len(shared),
        only_first=sum(a and not b for a, b in zip(ours, theirs, strict=True)),
        only_second=sum(b and not a for a, b in zip(ours, theirs, strict=True)),
        p_value=mcnemar_exact(ours, theirs),
    )
