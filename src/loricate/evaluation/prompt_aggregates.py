"""From attacked prompts to numbers with intervals, in the words of the record."""

import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from loricate.basics.registry import key_of
from loricate.basics.spec import from_table
from loricate.evaluation.prompts import PromptRow, PromptTrial
from loricate.evaluation.statistics import Interval, bootstrap_mean, wilson
from loricate.records.names import BASE, NO_ATTACK, NO_OBJECTIVE, STRONGEST, WORST_CASE, Metrics
from loricate.records.schema import Aggregate

__all__ = ["aggregate_prompts"]

_SURFACE: Final = "text_encoder"
_OBJECTIVE: Final = "embedding_shift"


@dataclass(frozen=True)
class _Condition:
    attack: str
    objective: str
    edits: float
    unit: str


_CLEAN: Final = _Condition(NO_ATTACK, NO_OBJECTIVE, 0.0, "characters")


def aggregate_prompts(
    rows: Sequence[PromptRow], *, judge: str, margin: float, seed: int
) -> tuple[Aggregate, ...]:
    """Every subject under every trial, and under the worst trial of each budget.

    Args:
        rows: Rows of one evaluation.
        judge: Whose agreement with the clean prompt counts.
        margin: A picture is broken when its agreement is lower than that of the base's clean
            picture by more than this: what another seed of the same prompt costs.
        seed: Seed of the bootstrap.

    Returns:
        Shift of the hidden states from the base's clean ones, and where pictures were drawn,
        their agreement and the share that is broken.
    """
    untouched = (row for row in rows if row.subject == BASE and not row.trial)
    clean = {row.sample: row.alignment[judge] for row in untouched}
    table: dict[tuple[str, _Condition], list[PromptRow]] = defaultdict(list)
    for row in rows:
        table[row.subject, _condition(row)].append(row)
    for key, worst in _strongest(table):
        table[key] = worst
    found = []
    for (subject, condition), group in table.items():
        for metric, interval in _numbers(group, clean, judge, margin, seed):
            found.append(_aggregate(subject, condition, metric, interval))
    return tuple(found)


def _condition(row: PromptRow) -> _Condition:
    if not row.trial:
        return _CLEAN
    trial = from_table(PromptTrial, tomllib.loads(row.trial))
    attack = key_of(type(trial.attack))
    return _Condition(attack, _OBJECTIVE, float(trial.budget.limit), trial.budget.unit)


def _strongest(
    table: Mapping[tuple[str, _Condition], list[PromptRow]],
) -> Iterator[tuple[tuple[str, _Condition], list[PromptRow]]]:
    """For each subject and budget, the row of each prompt that moved its states farthest."""
    groups: dict[tuple[str, float, str], list[list[PromptRow]]] = defaultdict(list)
    for (subject, condition), group in table.items():
        if condition is not _CLEAN:
            ordered = sorted(group, key=lambda row: row.sample)
            groups[subject, condition.edits, condition.unit].append(ordered)
    for (subject, edits, unit), trials in groups.items():
        worst = [max(each, key=lambda row: row.shift) for each in zip(*trials, strict=True)]
        yield (subject, _Condition(STRONGEST, WORST_CASE, edits, unit)), worst


def _numbers(
    rows: Sequence[PromptRow],
    clean: Mapping[int, float],
    judge: str,
    margin: float,
    seed: int,
) -> Iterator[tuple[str, Interval]]:
    yield Metrics.EMBEDDING_SHIFT, bootstrap_mean([row.shift for row in rows], seed=seed)
    drawn = [row for row in rows if judge in row.alignment]
    if len(drawn) < len(rows):
        return
    alignment = np.array([row.alignment[judge] for row in rows])
    yield Metrics.GENERATION_ALIGNMENT, bootstrap_mean(alignment, seed=seed)
    if rows[0].trial:
        before = np.array([clean[row.sample] for row in rows])
        broken = before - alignment > margin
        yield Metrics.PROMPT_SUCCESS, wilson(int(broken.sum()), len(broken))


def _aggregate(subject: str, at: _Condition, metric: str, interval: Interval) -> Aggregate:
    return Aggregate(
        subject=subject,
        surface=_SURFACE,
        attack=at.attack,
        objective=at.objective,
        epsilon=at.edits,
        norm=at.unit,
        metric=metric,
        n=interval.n,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        level=interval.level,
        method=interval.method,
    )
