"""Directions that an update puts in front of all that the base knows."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.adapters.adapter import Adapter, Target
from loricate.adapters.weights import StoredArray
from loricate.integrity._base_spectrum import as_matrix, compared, mean_singular_value
from loricate.integrity._reading import adapter_of, features_of, weights_of
from loricate.integrity.features import Features
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["IntruderDimensions"]


@final
@dataclass(frozen=True, kw_only=True)
class IntruderDimensions(Rule):
    """Leading singular vectors of the tuned weight that resemble none of the base.

    Counts, of the 10 leading left singular vectors of base plus update, those whose cosine to
    every vector of the base stays below 0.5. Such intruders go with forgetting what the base
    could do. Low where ``some`` of the ten are intruders at a module; medium where ``most`` of them
    are, or where a ``share`` of all modules has one.

    Only weights are decomposed whose update is large enough to lift a new vector into the leading
    ones: longer than half the root mean square of the singular values of the weight. Of these the
    largest are taken until ``budget`` entries were decomposed; how many are left is not verified.
    Weights whose shorter side exceeds 384 are sketched.

    Cannot see a change in the directions that the base has already, which is where most of what a
    text encoder learns goes.

    Args:
        some: Intruders of ten that are worth a word.
        most: Intruders of ten that training in good faith does not leave.
        share: Share of all modules with an intruder that such training does not reach.
        budget: Entries of weights that are decomposed, as a bound on time.

    Source: Shuttleworth et al. 2024 [shuttleworth2024], section 3. Of 38 adapters trained on the
    embedded model none has more than one at a module, nor one at more than 42 % of its modules;
    the hardening adapter of a VAE in its results has six at one, and some at 44 %.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True
    needs_base: ClassVar = True

    some: int = 3
    most: int = 8
    share: float = 0.75
    budget: int = 4_000_000

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for the module with most intruders."""
        adapter, found = adapter_of(subject), features_of(subject)
        if adapter is None or found is None or subject.base is None:
            return
        counts, n_left = self._counts(adapter, found, weights_of(adapter, subject.base))
        if n_left:
            yield self.not_verified(subject, f"{n_left} more modules, to stay within the time")
        worst = max(counts, key=counts.__getitem__, default=None)
        n_modules = sum(count > 0 for count in counts.values())
        is_common = n_modules >= self.share * len(adapter)
        if worst is not None and (counts[worst] >= self.some or (counts[worst] and is_common)):
            is_grave = is_common or counts[worst] >= self.most
            yield self.finding(
                subject,
                Severity.MEDIUM if is_grave else Severity.LOW,
                f"{counts[worst]} of the 10 leading directions resemble none of the base; "
                f"{n_modules} of {len(adapter)} modules have such directions",
                advice="try it at a lower strength, and compare what the base could do before",
                where=str(worst),
                n_intruders=counts[worst],
                n_modules=n_modules,
            )

    def _counts(
        self, adapter: Adapter, found: Features, weights: Mapping[Target, StoredArray]
    ) -> tuple[dict[Target, int], int]:
        """Intruders by module, and how many modules were left out."""
        reach = {
            target: spectral / mean
            for target, spectral in zip(found.targets, found.column("spectral"), strict=True)
            if target in weights and 0 < (mean := mean_singular_value(weights[target])) < math.inf
        }
        suspects = sorted(reach, key=reach.__getitem__, reverse=True)
        suspects = [target for target in suspects if reach[target] >= 0.5]
        counts: dict[Target, int] = {}
        left = self.budget
        for target in suspects:
            left -= weights[target].size
            if left < 0:
                break
            factors = adapter[target].factors
            counts[target] = compared(factors, 0.0, as_matrix(weights[target])).n_intruders
        return counts, len(suspects) - len(counts)
