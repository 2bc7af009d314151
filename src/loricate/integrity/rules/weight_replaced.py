"""Updates that take the weights away which they are added to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import numpy as np

from loricate.adapters.adapter import Target
from loricate.adapters.weights import StoredArray
from loricate.integrity._base_spectrum import as_matrix
from loricate.integrity._reading import adapter_of, features_of, norms_of, weights_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject
from loricate.lowrank.factors import LowRank

__all__ = ["WeightReplaced"]


class _Suspect(NamedTuple):
    """An update that is large enough to matter, beside its weight."""

    target: Target
    factors: LowRank
    weight: StoredArray
    relative: float


@final
@dataclass(frozen=True, kw_only=True)
class WeightReplaced(Rule):
    """Updates that cancel their weight, or are as large as it at full rank.

    A pair of full rank can exchange a weight for any other, by the name of a plain LoRA. High where
    the weight, projected on itself after the update, has lost a ``share``: what is added points
    against what is there, which an update that knows nothing of the weight does not. Medium where
    factors of at least half the shorter side add ``large`` times the norm of the weight.

    Cannot see a replacement that keeps most of the weight, nor one of layers whose shorter side is
    below ``least``, where every rank is full.

    Args:
        share: Part of the weight that is taken away.
        large: Frobenius norm of an update of full rank over that of the weight.
        least: Shorter side of weights at which a full rank says something.
        budget: Multiplications for products with weights, as a bound on time.

    Source: Of 34 adapters trained on the embedded model none takes away more than 0.041.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True
    needs_base: ClassVar = True

    share: float = 0.25
    large: float = 1.0
    least: int = 32
    budget: int = 20_000_000_000

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for weights that are taken away, one for those that drown."""
        suspects = self._suspects(subject)
        drowned = [each for each in suspects if self._is_drowned(each)]
        taken, n_left = self._taken(suspects)
        if n_left:
            yield self.not_verified(subject, f"{n_left} more modules, to stay within the time")
        if taken:
            worst = max(taken, key=taken.__getitem__)
            yield self.finding(
                subject,
                Severity.HIGH,
                f"the update takes away {taken[worst]:.0%} of the weight; so do "
                f"{len(taken) - 1} more by at least {self.share:.0%}",
                advice="it exchanges weights of the base; compare the merged model with the base",
                where=str(worst),
                taken=taken[worst],
                n_modules=len(taken),
            )
        if drowned:
            largest = max(drowned, key=lambda each: each.relative)
            yield self.finding(
                subject,
                Severity.MEDIUM,
                f"the update has full rank and {largest.relative:.3g} times the norm of the "
                f"weight; so have {len(drowned) - 1} more at least {self.large:g} times",
                advice="ask why it needs that rank; a low one adapts a model",
                where=str(largest.target),
                relative_frobenius=largest.relative,
                n_modules=len(drowned),
            )

    def _suspects(self, subject: Subject) -> list[_Suspect]:
        """Updates as large as a share of their weight, the largest first."""
        adapter, found = adapter_of(subject), features_of(subject)
        if adapter is None or found is None or subject.base is None:
            return []
        sizes, weights = norms_of(adapter, subject.base), weights_of(adapter, subject.base)
        suspects = [
            _Suspect(target, adapter[target].factors, weights[target], float(norm / sizes[target]))
            for target, norm in zip(found.targets, found.column("frobenius"), strict=True)
            if target in sizes and norm >= self.share * sizes[target]
        ]
        return sorted(suspects, key=lambda each: -each.relative)

    def _is_drowned(self, suspect: _Suspect) -> bool:
        side = min(suspect.factors.shape)
        is_full = side >= self.least and 2 * suspect.factors.rank >= side
        return is_full and suspect.relative >= self.large

    def _taken(self, suspects: list[_Suspect]) -> tuple[dict[Target, float], int]:
        """Share of each weight that is lost to its update, and how many were not looked at."""
        taken: dict[Target, float] = {}
        left = self.budget
        for i, each in enumerate(suspects):
            left -= each.weight.size * each.factors.rank
            if left < 0:
                return taken, len(suspects) - i
            if (share := _lost(each)) >= self.share:
                taken[each.target] = share
        return taken, 0


def _lost(suspect: _Suspect) -> float:
    """How much shorter the projection of the sum on the weight is than the weight."""
    matrix = as_matrix(suspect.weight)
    a, b = (np.asarray(each, np.float32) for each in (suspect.factors.A, suspect.factors.B))
    along = suspect.factors.scale * float(np.vdot(b.T @ matrix, a))
    return -along / float(np.vdot(matrix, matrix))
