"""From attacked prompts to numbers with intervals, in the words of the record."""

import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

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
    question = _Question(judge, margin, {r.sample: r.alignment[judge] for r in untouched}, seed)
    table: dict[tuple[str, _Condition], list[PromptRow]] = defaultdict(list)
    for row in rows:
        table[row.subject, _condition(row)].append(row)
    found = [
        _aggregate(subject, condition, metric, interval)
        for (subject, condition), group in table.items()
        for metric, interval in question.numbers([group], is_attacked=condition is not _CLEAN)
    ]
    for (subject, budget), trials in _by_budget(table).items():
        for metric, interval in question.numbers(trials, is_attacked=True):
            found.append(_aggregate(subject, budget, metric, interval))
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
        shifts = _worst([{row.sample: row.shift for row in rows} for rows in trials], max)
        yield Metrics.EMBEDDING_SHIFT, bootstrap_mean([*shifts.values()], seed=self.seed)
        # Only trials from whose texts pictures were drawn have something to say of pictures.
        drawn = [rows for rows in trials if all(self.judge in row.alignment for row in rows)]
        if not drawn:
            return
        agreements = [{row.sample: row.alignment[self.judge] for row in rows} for rows in drawn]
        worst = _worst(agreements, min)
        yield Metrics.GENERATION_ALIGNMENT, bootstrap_mean([*worst.values()], seed=self.seed)
        if is_attacked:
            broken = [self.clean[sample] - value > self.margin for sample, value in worst.items()]
            yield Metrics.PROMPT_SUCCESS, wilson(sum(broken), len(broken))


def _worst(
    trials: Sequence[Mapping[int, float]], pick: Callable[[Iterable[float]], float]
) -> dict[int, float]:
    """The worst value of each prompt, each metric by itself."""
    return {sample: pick(values[sample] for values in trials) for sample in sorted(trials[0])}


def _by_budget(
    table: Mapping[tuple[str, _Condition], list[PromptRow]],
) -> dict[tuple[str, _Condition], list[list[PromptRow]]]:
    """The trials of each subject and budget."""
    groups: dict[tuple[str, _Condition], list[list[PromptRow]]] = defaultdict(list)
    for (subject, at), rows in table.items():
        if at is not _CLEAN:
            worst = _Condition(STRONGEST, WORST_CASE, at.edits, at.unit)
            groups[subject, worst].append(rows)
    return groups


def _condition(row: PromptRow) -> _Condition:
    if not row.trial:
        return _CLEAN
    trial = from_table(PromptTrial, tomllib.loads(row.trial))
    attack = key_of(type(trial.attack))
    return _Condition(attack, _OBJECTIVE, float(trial.budget.limit), trial.budget.kind)


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
