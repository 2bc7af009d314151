"""Hardened against base, picture by picture: the same pictures make the difference sharper."""

import math
from collections.abc import Iterable, Sequence

from loricate.evaluation.aggregates import as_aggregate, worst_case
from loricate.evaluation.statistics import Interval, bootstrap_difference, bootstrap_ratio
from loricate.records.names import NO_ATTACK, Metrics
from loricate.records.schema import Aggregate, SampleRow

__all__ = ["compare"]

_LOSSES = {Metrics.PSNR: Metrics.PSNR_LOSS, Metrics.ALIGNMENT: Metrics.ALIGNMENT_LOSS}


def compare(rows: Sequence[SampleRow], seed: int) -> tuple[Aggregate, ...]:
    """What hardening gained under the worst case of each radius, and lost without attack.

    Args:
        rows: Rows of one run.
        seed: Seed of the bootstrap.

    Returns:
        Aggregates of the hardened subject: the factor by which latent drift shrank, the share of
        edits no longer broken, and the PSNR and prompt alignment lost on clean pictures. Only
        samples both subjects have count.
    """
    found = []
    worst = worst_case(rows)
    for epsilon, norm in sorted({(row.epsilon, row.norm) for row in worst}):
        pairs = _pairs(row for row in worst if (row.epsilon, row.norm) == (epsilon, norm))
        if pairs:
            base, hardened = _columns(pairs, "latent_drift")
            ratio = bootstrap_ratio(base, hardened, seed=seed)
            found.append(_named(pairs, Metrics.DRIFT_REDUCTION, ratio))
            base, hardened = _columns(pairs, "edit_broken")
            saved = bootstrap_difference(base, hardened, seed=seed)
            found.append(_named(pairs, Metrics.SUCCESS_REDUCTION, saved))
    pairs = _pairs(row for row in rows if row.attack == NO_ATTACK)
    for metric, loss in _LOSSES.items():
        base, hardened = _columns(pairs, metric)
        # Without a judge that reads prompts, alignment is NaN.
        if pairs and all(map(math.isfinite, (*base, *hardened))):
            lost = bootstrap_difference(base, hardened, seed=seed)
            found.append(_named(pairs, loss, lost))
    return tuple(found)


Pair = tuple[SampleRow, SampleRow]


def _pairs(rows: Iterable[SampleRow]) -> list[Pair]:
    """Base and hardened rows of the samples that have both."""
    by_subject: dict[str, dict[int, SampleRow]] = {"base": {}, "hardened": {}}
    for row in rows:
        if row.subject in by_subject:
            by_subject[row.subject][row.sample] = row
    base, hardened = by_subject["base"], by_subject["hardened"]
    return [(base[sample], hardened[sample]) for sample in sorted(base.keys() & hardened.keys())]


def _columns(pairs: Sequence[Pair], metric: str) -> tuple[list[float], list[float]]:
    return [b.values[metric] for b, _ in pairs], [h.values[metric] for _, h in pairs]


def _named(pairs: Sequence[Pair], metric: str, interval: Interval) -> Aggregate:
    return as_aggregate(pairs[0][1], metric, interval)
