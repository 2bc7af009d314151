"""From attacked prompts to numbers with intervals, in the words of the record."""

import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from loricate.basics.registry import key_of
from loricate.basics.spec import from_table
from loricate.evaluation.aggregates import as_aggregate, pivot, rate
from loricate.evaluation.prompts import PromptRow, PromptTrial
from loricate.evaluation.statistics import Interval, bootstrap_mean
from loricate.records.condition import Condition
from loricate.records.names import (
    BASE,
    NO_ATTACK,
    NO_OBJECTIVE,
    STRONGEST,
    WORST_CASE,
    Metrics,
    stem,
)
from loricate.records.schema import Aggregate

__all__ = ["aggregate_prompts"]

_SURFACE: Final = "text_encoder"
_OBJECTIVE: Final = "embedding_shift"


_CLEAN: Final = Condition(_SURFACE, NO_ATTACK, NO_OBJECTIVE, "characters", 0.0)


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
    question = _Question(judge, margin, {r.sample: r.alignment[judge] for r in untouched}, seed)
    table: dict[tuple[str, Condition], list[PromptRow]] = defaultdict(list)
    for row in rows:
        condition = _condition(row)
        for subject in {row.subject, stem(row.subject)}:
            table[subject, condition].append(row)
    found = [
        as_aggregate(subject, condition, metric, interval)
        for (subject, condition), group in table.items()
        for metric, interval in question.numbers([group], is_attacked=condition.attack != NO_ATTACK)
    ]
    for (subject, budget), trials in _by_budget(table).items():
        for metric, interval in question.numbers(trials, is_attacked=True):
            found.append(as_aggregate(subject, budget, metric, interval))
    return tuple(found)


@dataclass(frozen=True)
class _Question:
    """What is asked of the rows of one trial, or of several: then of the worst of each prompt."""

    judge: str
    margin: float
    clean: Mapping[int, float]
    seed: int

    def numbers(
        self, trials: Sequence[Sequence[PromptRow]], *, is_attacked: bool
    ) -> Iterator[tuple[str, Interval]]:
        shifts = _worst([{_key(row): row.shift for row in rows} for rows in trials], max)
        yield Metrics.EMBEDDING_SHIFT, bootstrap_mean(pivot(shifts), seed=self.seed)
        # Only trials from whose texts pictures were drawn have something to say of pictures.
        drawn = [rows for rows in trials if all(self.judge in row.alignment for row in rows)]
        if not drawn:
            return
        agreements = [{_key(row): row.alignment[self.judge] for row in rows} for rows in drawn]
        worst = _worst(agreements, min)
        yield Metrics.GENERATION_ALIGNMENT, bootstrap_mean(pivot(worst), seed=self.seed)
        if is_attacked:
            lost = {key: self.clean[key[1]] - value for key, value in worst.items()}
            yield Metrics.PROMPT_SUCCESS, rate((pivot(lost) > self.margin).astype(float), self.seed)


_Key: TypeAlias = tuple[str, int]
"""Subject and sample."""


def _key(row: PromptRow) -> _Key:
    return row.subject, row.sample


def _worst(
    trials: Sequence[Mapping[_Key, float]], pick: Callable[[Iterable[float]], float]
) -> dict[_Key, float]:
    """The worst value of each prompt, each metric by itself."""
    return {key: pick(values[key] for values in trials) for key in sorted(trials[0])}


def _by_budget(
    table: Mapping[tuple[str, Condition], list[PromptRow]],
) -> dict[tuple[str, Condition], list[list[PromptRow]]]:
    """The trials of each subject and budget."""
    groups: dict[tuple[str, Condition], list[list[PromptRow]]] = defaultdict(list)
    for (subject, at), rows in table.items():
        if at.attack != NO_ATTACK:
            worst = replace(at, attack=STRONGEST, objective=WORST_CASE)
            groups[subject, worst].append(rows)
    return groups


def _condition(row: PromptRow) -> Condition:
    if not row.trial:
        return _CLEAN
    trial = from_table(PromptTrial, tomllib.loads(row.trial))
    attack = key_of(type(trial.attack))
    kind, limit = trial.budget.kind, float(trial.budget.limit)
    return Condition(_SURFACE, attack, _OBJECTIVE, kind, limit)
