"""Two models on the same samples: the difference, its interval, and whether it may be chance."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, final

import numpy as np
from numpy.typing import ArrayLike

from loricate.evaluation.aggregates import Table, pivot, worst_case
from loricate.evaluation.statistics import (
    bootstrap_difference,
    bootstrap_test,
    holm,
    mcnemar_exact,
    signed_rank,
)
from loricate.records.io import ROWS_FILE, read_rows
from loricate.records.names import HARDENED, stem

__all__ = ["Column", "Paired", "paired"]

_TESTS: Final[Mapping[str, Callable[[ArrayLike, ArrayLike], float]]] = {
    "edit_broken": mcnemar_exact,
    "latent_drift": signed_rank,
}
"""What is compared under the worst case, and how with one training of each model."""


class Column(NamedTuple):
    """A model of a run.

    Args:
        run: Name of the run.
        subject: Which of its models.
    """

    run: str
    subject: str


@final
@dataclass(frozen=True, kw_only=True)
class Paired:
    """Whether the worst case does more to one model than to another.

    Args:
        metric: What was measured.
        first: A model.
        second: Another.
        epsilon: Radius in domain units.
        norm: Norm of the ball.
        n: Samples both have.
        only_first: Samples on which the first has more; of several trainings their mean number.
        only_second: The other way round.
        difference: Mean of the first less that of the second.
        low: Lower end of its interval, over samples and trainings.
        high: Upper end.
        p_value: Exact McNemar test of rates and Wilcoxon's of numbers; of several trainings that
            of the interval. Corrected after Holm over everything compared.
    """

    metric: str
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


_Samples: TypeAlias = dict[tuple[str, int], float]
"""A metric by training and sample."""

_Worst: TypeAlias = dict[tuple[str, str, float], _Samples]
"""The worst case by metric, norm and radius."""


def paired(paths: Mapping[str, Path], columns: Sequence[Column]) -> tuple[Paired, ...]:
    """The first hardened model against each other model; where there is none, the first model.

    Args:
        paths: Run folders by name.
        columns: Models of these runs, attacked on the same samples.

    Returns:
        Tests of what both met; none for a run without rows.
    """
    found = {run: _worst(path) for run, path in paths.items()}
    tables = {column: found[column.run][column.subject] for column in columns}
    first = next((c for c in columns if c.subject == HARDENED), columns[0])
    tests = [
        _test(first, second, at, _matched(ours, tables[second][at]))
        for second in columns
        for at, ours in sorted(tables[first].items())
        if second != first and at in tables[second]
    ]
    adjusted = holm([test.p_value for test in tests])
    return tuple(replace(t, p_value=p) for t, p in zip(tests, adjusted, strict=True))


def _worst(run: Path) -> Mapping[str, _Worst]:
    """Rows of each model, those of several trainings also under the name of their defense."""
    tables: dict[str, _Worst] = defaultdict(lambda: defaultdict(dict))
    rows = read_rows(run / ROWS_FILE) if (run / ROWS_FILE).is_file() else ()
    for row in worst_case(rows):
        for name in {row.subject, stem(row.subject)}:
            for metric in _TESTS.keys() & row.values.keys():
                at = tables[name][metric, row.norm, row.epsilon]
                at[row.subject, row.sample] = row.values[metric]
    return tables


def _matched(one: _Samples, two: _Samples) -> tuple[Table, Table]:
    """Both by training and shared sample; as many trainings of each, a single one for all."""
    shared = {sample for _, sample in one} & {sample for _, sample in two}
    first, second = (
        pivot({key: value for key, value in each.items() if key[1] in shared})
        for each in (one, two)
    )
    if len(first) > 1 and len(second) > 1:
        fewer = min(len(first), len(second))
        return first[:fewer], second[:fewer]
    rows = max(len(first), len(second)), first.shape[1]
    return np.broadcast_to(first, rows), np.broadcast_to(second, rows)


def _test(
    first: Column, second: Column, at: tuple[str, str, float], tables: tuple[Table, Table]
) -> Paired:
    metric, norm, epsilon = at
    ours, theirs = tables
    more = bootstrap_difference(ours, theirs, seed=0)
    is_single = len(ours) == 1
    return Paired(
        metric=metric,
        first=first,
        second=second,
        epsilon=epsilon,
        norm=norm,
        n=more.n,
        only_first=float((ours > theirs).sum(1).mean()),
        only_second=float((ours < theirs).sum(1).mean()),
        difference=more.value,
        low=more.low,
        high=more.high,
        p_value=_TESTS[metric](ours[0], theirs[0])
        if is_single
        else bootstrap_test(ours, theirs, seed=0),
    )
