"""From rows to numbers with intervals; the worst case per sample beside every attack."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from loricate.evaluation.statistics import Interval, bootstrap_mean, wilson
from loricate.records.names import NO_ATTACK, RANDOM_NOISE, STRONGEST, WORST_CASE, Metrics
from loricate.records.schema import Aggregate, SampleRow

__all__ = ["aggregate", "as_aggregate", "worst_case"]

_RATES = {
    "edit_broken": Metrics.ATTACK_SUCCESS,
    "edit_broken_from_base": "edit_broken_from_base_rate",
}
_HIGHER_IS_WORSE = {
    "edit_broken": True,
    "edit_broken_from_base": True,
    "latent_drift": True,
    "edit_feature_distance": True,
    "edit_ssim": False,
    "reconstruction_psnr": False,
}
_CLEAN = {Metrics.SSIM, Metrics.ALIGNMENT, Metrics.GENERATION_SSIM}
_MEANS = (_HIGHER_IS_WORSE.keys() | _CLEAN) - _RATES.keys()


def aggregate(rows: Sequence[SampleRow], seed: int) -> tuple[Aggregate, ...]:
    """Every metric of every trial, and of the worst case over the trials of a subject.

    Args:
        rows: Rows of one run.
        seed: Seed of the bootstrap.

    Returns:
        Aggregates in the order of the trials, worst cases last.
    """
    found = []
    for rows_of_trial in _by_trial([*rows, *worst_case(rows)]).values():
        for metric in rows_of_trial[0].values:
            values = np.array([row.values[metric] for row in rows_of_trial])
            if metric in _RATES:
                interval = wilson(int(values.sum()), len(values))
                found.append(as_aggregate(rows_of_trial[0], _RATES[metric], interval))
            elif metric in _MEANS and np.isfinite(values).all():
                interval = bootstrap_mean(values, seed=seed)
                found.append(as_aggregate(rows_of_trial[0], metric, interval))
    return tuple(found)


def worst_case(rows: Iterable[SampleRow]) -> list[SampleRow]:
    """For each subject, radius and sample, the worst value any attack reached.

    Only for samples that met every attack of their radius: a subject that was spared one, as the
    controls of a shortened plan are, has no worst case to compare, and stands in the table of
    each attack alone.
    """
    groups: dict[tuple[object, ...], list[SampleRow]] = defaultdict(list)
    for row in rows:
        if row.attack not in (NO_ATTACK, RANDOM_NOISE, STRONGEST):
            groups[row.subject, row.norm, row.epsilon, row.seed, row.sample].append(row)
    most: dict[tuple[object, ...], set[tuple[str, str]]] = defaultdict(set)
    for group in groups.values():
        most[group[0].norm, group[0].epsilon] |= _attacks(group)
    return [
        _worst(group)
        for group in groups.values()
        if _attacks(group) == most[group[0].norm, group[0].epsilon]
    ]


def _attacks(rows: Iterable[SampleRow]) -> set[tuple[str, str]]:
    return {(row.attack, row.objective) for row in rows}


def _worst(rows: list[SampleRow]) -> SampleRow:
    values = {}
    for metric, higher in _HIGHER_IS_WORSE.items():
        seen = [row.values[metric] for row in rows]
        values[metric] = max(seen) if higher else min(seen)
    update = {"surface": "pipeline", "attack": STRONGEST, "objective": WORST_CASE, "values": values}
    return rows[0].model_copy(update=update)


def _by_trial(rows: Iterable[SampleRow]) -> Mapping[tuple[object, ...], list[SampleRow]]:
    trials: dict[tuple[object, ...], list[SampleRow]] = defaultdict(list)
    for row in rows:
        key = (row.subject, row.surface, row.attack, row.objective, row.norm, row.epsilon)
        trials[key].append(row)
    return trials


def as_aggregate(row: SampleRow, metric: str, interval: Interval) -> Aggregate:
    """An interval as the aggregate of a row's trial.

    Args:
        row: Any row of the trial.
        metric: What was measured.
        interval: The number.
    """
    return Aggregate(
        subject=row.subject,
        surface=row.surface,
        attack=row.attack,
        objective=row.objective,
        epsilon=row.epsilon,
        norm=row.norm,
        metric=metric,
        n=interval.n,
        value=interval.value,
        low=interval.low,
        high=interval.high,
        level=interval.level,
        method=interval.method,
    )
