"""Updates of a lower rank than they claim."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from loricate.adapters.adapter import Adapter
from loricate.integrity._reading import adapter_of, features_of
from loricate.integrity._statistics import families_of
from loricate.integrity.features import Features
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["RankCollapse"]


@final
@dataclass(frozen=True, kw_only=True)
class RankCollapse(Rule):
    """Updates that are zero, or of far lower rank than their factors have.

    Fires where the numerical rank of an update is below ``share`` of what its factors allow,
    while the updates of its family use nearly all of theirs (medium): rows were doubled or zeroed,
    or something was written over what training had left. Fires as well where nine in ten of a
    family stay below ``hollow``, or, at factors of at least ``least_rank``, below the effective
    rank ``graded`` (or ``graded_share`` of the rank), as then the stated rank is a mere claim
    (medium). Updates of zero do nothing (low): the adapter is untrained, or damaged.

    Cannot see what filled the factors up: noise has full rank.

    Args:
        share: Numerical rank over that of the factors below which a module has collapsed.
        usual: The same, as the median of its family has to have at least.
        hollow: Share that one in ten of a family has to reach.
        graded: Effective rank that one in ten of a family has to reach.
        graded_share: The same over the rank of the factors.
        least_rank: Rank from which on the effective rank is asked for.
        least: Members of a family to compare with.

    Source: All updates of 38 adapters trained on the embedded model have the rank of their
    factors; singular values below 1e-6 of the largest do not count. Of two among them of
    rank 29, effective ranks are at least 0.2 of it. Effective rank as in Roy & Vetterli 2007
    [roy2007].
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True

    share: float = 0.5
    usual: float = 0.9
    hollow: float = 0.25
    graded: float = 1.5
    graded_share: float = 0.06
    least_rank: int = 8
    least: int = 8

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for updates of zero, one for each family with a collapse."""
        adapter, found = adapter_of(subject), features_of(subject)
        if adapter is None or found is None:
            return
        zeros = np.flatnonzero(found.column("spectral") == 0)
        if zeros.size:
            yield self.finding(
                subject,
                Severity.LOW,
                f"{zeros.size} of {len(adapter)} updates are zero and do nothing",
                advice="leave them out, or find out why training did not reach them",
                where=str(found.targets[zeros[0]]),
                n_modules=int(zeros.size),
            )
        yield from self._collapsed(subject, adapter, found)

    def _collapsed(
        self, subject: Subject, adapter: Adapter, found: Features
    ) -> Iterator[Finding | NotVerified]:
        moved = np.flatnonzero(found.column("spectral") > 0)
        possible = np.array([min(u.rank, *u.factors.shape) for u in adapter.values()])
        shares = found.column("numerical_rank") / possible
        # Above 1 where the effective rank is one of factors that are used.
        used = possible ** found.column("entropy") / np.maximum(
            self.graded, self.graded_share * possible
        )
        used[possible < self.least_rank] = np.inf
        families, lone = families_of([found.targets[i] for i in moved], self.least)
        if lone:
            why = f"{len(lone)} updates have no family of {self.least} to compare with"
            yield self.not_verified(subject, why)
        for family, members in families.items():
            rows = moved[members]
            worst = rows[int(np.argmin(shares[rows]))]
            is_alone = shares[worst] < self.share and np.median(shares[rows]) >= self.usual
            is_hollow = np.quantile(shares[rows], 0.9) < self.hollow
            is_graded = np.quantile(used[rows], 0.9, method="lower") < 1
            if is_alone or is_hollow or is_graded:
                effective = float(possible[worst] ** found.column("entropy")[worst])
                yield self.finding(
                    subject,
                    Severity.MEDIUM,
                    f"rank {int(found.column('numerical_rank')[worst])}, effectively "
                    f"{effective:.3g}, in factors of rank {possible[worst]}, "
                    f"{'unlike' if is_alone else 'like'} the others of {family}",
                    advice="compare this module with an earlier copy of the adapter",
                    where=str(found.targets[worst]),
                    numerical_rank=float(found.column("numerical_rank")[worst]),
                    effective_rank=effective,
                    rank=int(possible[worst]),
                    n_modules=int(np.sum((shares[rows] < self.share) | (used[rows] < 1))),
                )
