"""Defenses by attacks: one table for each kind of harm a record measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from loricate.records.condition import Condition
from loricate.records.names import NO_ATTACK, STRONGEST, Metrics, is_replicate, stem
from loricate.records.schema import Aggregate, RunRecord
from loricate.report.figures import clean_table, subject_order
from loricate.report.words import condition_label, metric_label

__all__ = ["Matrix", "MatrixRow", "matrices", "unreliable"]

_ON_PICTURES: Final = (Metrics.PSNR, Metrics.LATENT_DRIFT, Metrics.ALIGNMENT)
_ON_PROMPTS: Final = (Metrics.EMBEDDING_SHIFT, Metrics.GENERATION_ALIGNMENT)
_HARMS: Final = {
    Metrics.ATTACK_SUCCESS: _ON_PICTURES,
    Metrics.PROMPT_SUCCESS: _ON_PROMPTS,
    Metrics.EMBEDDING_SHIFT: _ON_PROMPTS,
}
"""Metrics that grow with the success of an attack, and the price of robustness to stand below."""


@dataclass(frozen=True, kw_only=True)
class MatrixRow:
    """One attack on every model.

    Args:
        label: Attack, objective and budget.
        cells: What it did, by model.
        best: The models it harmed least, those whose interval reaches the lowest value included.
    """

    label: str
    cells: Mapping[str, Aggregate]
    best: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """One kind of harm: attacks by models.

    Args:
        title: The metric.
        subjects: The models, base first.
        rows: The attacks, the worst case over all of them on top.
        clean: Clean inputs, one row a metric.
    """

    title: str
    subjects: tuple[str, ...]
    rows: tuple[MatrixRow, ...]
    clean: tuple[MatrixRow, ...]


def matrices(record: RunRecord) -> tuple[Matrix, ...]:
    """The tables of a record; none for a metric that fewer than two models or attacks have.

    Args:
        record: What was measured. Pixel attacks are shown at the radius of the verdict.
    """
    return tuple(
        matrix
        for metric in _HARMS
        if len((matrix := _matrix(record, metric)).rows) > 1 and len(matrix.subjects) > 1
    )


def unreliable(record: RunRecord) -> set[str]:
    """Models with a failed check; a defense is one as soon as a training of it is.

    Args:
        record: What was measured.
    """
    failed = {check.subject for check in record.checks if check.level == "error"}
    return failed | {stem(subject) for subject in failed}


def _matrix(record: RunRecord, metric: str) -> Matrix:
    attacks: dict[Condition, dict[str, Aggregate]] = {}
    for a in record.aggregates:
        if a.metric == metric and a.attack != NO_ATTACK and _is_shown(a, record.verdict.epsilon):
            attacks.setdefault(Condition.of(a), {})[a.subject] = a
    ordered = sorted(attacks.items(), key=lambda item: _place(*item[1].values()))
    subjects = dict.fromkeys(subject for cells in attacks.values() for subject in cells)
    return Matrix(
        title=metric_label(metric),
        subjects=tuple(sorted(subjects, key=subject_order)),
        rows=tuple(_row(list(cells.values())) for _, cells in ordered),
        clean=tuple(_clean(record, _HARMS[metric])),
    )


def _clean(record: RunRecord, metrics: Sequence[str]) -> Iterator[MatrixRow]:
    table = clean_table(record)
    for metric in metrics:
        cells = {
            subject: row[metric]
            for subject, row in table.items()
            if metric in row and not is_replicate(subject)
        }
        if cells:
            label = f"clean: {metric_label(metric)}"
            yield MatrixRow(label=label, cells=cells, best=frozenset())


def _is_shown(a: Aggregate, epsilon: float | None) -> bool:
    if is_replicate(a.subject):  # its defense is shown, with an interval over all trainings
        return False
    return a.norm != "linf" or epsilon is None or abs(a.epsilon - epsilon) < 1e-9


def _place(*aggregates: Aggregate) -> tuple[object, ...]:
    first = aggregates[0]
    return first.attack != STRONGEST, -max(a.value for a in aggregates), Condition.of(first)


def _row(aggregates: Sequence[Aggregate]) -> MatrixRow:
    return MatrixRow(
        label=condition_label(Condition.of(aggregates[0])),
        cells={a.subject: a for a in aggregates},
        best=frozenset(_best(aggregates)),
    )


def _best(aggregates: Sequence[Aggregate]) -> Iterator[str]:
    """Models that the lowest one cannot be told from, where some can."""
    lowest = min(aggregates, key=lambda a: a.value)
    close = [a.subject for a in aggregates if a.low <= lowest.high]
    yield from close if len(close) < len(aggregates) else ()
