"""From rows to numbers with intervals; the worst case per sample beside every attack."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from loricate.basics.errors import ShapeError
from loricate.evaluation.statistics import Interval, bootstrap_mean, wilson
from loricate.records.condition import Condition
from loricate.records.names import (
    NO_ATTACK,
    RANDOM_NOISE,
    STRONGEST,
    WORST_CASE,
    Metrics,
    is_replicate,
    stem,
)
from loricate.records.schema import Aggregate, SampleRow

__all__ = ["Table", "aggregate", "as_aggregate", "pivot", "rate", "table_of", "worst_case"]

Table: TypeAlias = NDArray[np.float64]
"""Values by training and sample."""

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

    A defense that was trained with several seeds has numbers of its own beside those of each
    training, with intervals over seeds and samples.

    Args:
        rows: Rows of one run.
        seed: Seed of the bootstrap.

    Returns:
        Aggregates in the order of the trials, worst cases last.
    """
    found = []
    for (subject, condition), group in _by_trial([*rows, *worst_case(rows)]).items():
        for metric in group[0].values:
            values = table_of(group, metric)
            if (interval := _interval(metric, values, seed)) is not None:
                name = _RATES.get(metric, metric)
                found.append(as_aggregate(subject, condition, name, interval))
    return tuple(found)


def _interval(metric: str, values: Table, seed: int) -> Interval | None:
    if metric in _RATES:
        return rate(values, seed)
    is_shown = metric in _MEANS and np.isfinite(values).all()
    return bootstrap_mean(values, seed=seed) if is_shown else None


def rate(happened: Table, seed: int) -> Interval:
    """How often something happened, over samples and trainings.

    Args:
        happened: 1 where it did, (trainings, samples).
        seed: Seed of the bootstrap, which several trainings need.
    """
    n = happened.shape[1]
    if len(happened) == 1:
        return wilson(int(happened.sum()), n)
    over_trainings = bootstrap_mean(happened, seed=seed)
    # Resampling what always or never happened says that it always will or never.
    of_one = wilson(round(over_trainings.value * n), n)
    low = max(0.0, min(over_trainings.low, of_one.low))
    return replace(over_trainings, low=low, high=min(1.0, max(over_trainings.high, of_one.high)))


def table_of(rows: Iterable[SampleRow], metric: str) -> Table:
    """A metric of one condition, in the shape of ``pivot``.

    Args:
        rows: Rows of the trainings of one defense.
        metric: Which.

    Raises:
        ShapeError: A sample of a training has several rows, such as those of two seeds.
    """
    values: dict[tuple[str, int], float] = {}
    for row in rows:
        key = row.subject, row.sample
        if key in values:
            raise ShapeError("one row a training and sample", key, where=row.attack)
        values[key] = row.values[metric]
    return pivot(values)


def pivot(values: Mapping[tuple[str, int], float]) -> Table:
    """Values by training and sample, of the samples that every training has, in their order.

    Args:
        values: One number for each subject and sample.
    """
    by_subject: dict[str, dict[int, float]] = defaultdict(dict)
    for (subject, sample), value in values.items():
        by_subject[subject][sample] = value
    shared = sorted(set.intersection(*(set(row) for row in by_subject.values())))
    return np.array([[row[sample] for sample in shared] for row in by_subject.values()])


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
    most: dict[tuple[object, ...], set[tuple[str, str, str]]] = defaultdict(set)
    for group in groups.values():
        most[group[0].norm, group[0].epsilon] |= _attacks(group)
    return [
        _worst(group)
        for group in groups.values()
        if _attacks(group) == most[group[0].norm, group[0].epsilon]
    ]


def _attacks(rows: Iterable[SampleRow]) -> set[tuple[str, str, str]]:
    return {(row.attack, row.objective, row.variant) for row in rows}


def _worst(rows: list[SampleRow]) -> SampleRow:
    values = {}
    for metric, higher in _HIGHER_IS_WORSE.items():
        seen = [row.values[metric] for row in rows]
        values[metric] = max(seen) if higher else min(seen)
    update = {"surface": "pipeline", "attack": STRONGEST, "objective": WORST_CASE, "variant": ""}
    return rows[0].model_copy(update=update | {"values": values})


def _by_trial(rows: Iterable[SampleRow]) -> Mapping[tuple[str, Condition], list[SampleRow]]:
    """Rows of each subject, and of each defense that several of them are trainings of."""
    trials: dict[tuple[str, Condition], list[SampleRow]] = defaultdict(list)
    for row in rows:
        condition = Condition.of(row)
        trials[row.subject, condition].append(row)
        if is_replicate(row.subject):
            trials[stem(row.subject), condition].append(row)
    return trials


def as_aggregate(subject: str, condition: Condition, metric: str, interval: Interval) -> Aggregate:
    """An interval in the words of the record.

    Args:
        subject: Whose.
        condition: Under which attack.
        metric: What was measured.
        interval: The number.
    """
    return Aggregate(subject=subject, metric=metric, **asdict(condition), **asdict(interval))
