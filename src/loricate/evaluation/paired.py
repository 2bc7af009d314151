"""Hardened against base, picture by picture: the same pictures make the difference sharper."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loricate.evaluation.aggregates import Table, as_aggregate, table_of, worst_case
from loricate.evaluation.statistics import bootstrap_difference, bootstrap_ratio
from loricate.records.condition import CLEAN, Condition
from loricate.records.names import BASE, HARDENED, NO_ATTACK, Metrics, stem
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
        samples both subjects have count; trainings with several seeds count together.
    """
    found = []
    worst = worst_case(rows)
    for condition in sorted({Condition.of(row) for row in worst}):
        pair = _Pair.of([row for row in worst if Condition.of(row) == condition])
        if pair is not None:
            ratio = bootstrap_ratio(*pair.tables("latent_drift"), seed=seed)
            saved = bootstrap_difference(*pair.tables("edit_broken"), seed=seed)
            found.append(as_aggregate(HARDENED, condition, Metrics.DRIFT_REDUCTION, ratio))
            found.append(as_aggregate(HARDENED, condition, Metrics.SUCCESS_REDUCTION, saved))
    return (*found, *_lost(_Pair.of([row for row in rows if row.attack == NO_ATTACK]), seed))


def _lost(pair: "_Pair | None", seed: int) -> Iterator[Aggregate]:
    if pair is None:
        return
    for metric, loss in _LOSSES.items():
        base, hardened = pair.tables(metric)
        # Without a judge that reads prompts, alignment is NaN.
        if np.isfinite([base, hardened]).all():
            lost = bootstrap_difference(base, hardened, seed=seed)
            yield as_aggregate(HARDENED, CLEAN, loss, lost)


@dataclass(frozen=True)
class _Pair:
    """Rows of base and hardened model under one condition, of the samples that both have."""

    base: list[SampleRow]
    hardened: list[SampleRow]

    @classmethod
    def of(cls, rows: Sequence[SampleRow]) -> "_Pair | None":
        base, hardened = (
            [row for row in rows if stem(row.subject) == name] for name in (BASE, HARDENED)
        )
        shared = {row.sample for row in base} & {row.sample for row in hardened}
        if not shared:
            return None
        return cls(*([row for row in each if row.sample in shared] for each in (base, hardened)))

    def tables(self, metric: str) -> tuple[Table, Table]:
        """Values by training and sample; the base has one training, which meets each other one."""
        hardened = table_of(self.hardened, metric)
        return np.broadcast_to(table_of(self.base, metric), hardened.shape), hardened
