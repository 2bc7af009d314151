"""Updates out of all proportion."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.adapters.adapter import Target
from loricate.adapters.weights import StoredArray
from loricate.integrity._base_spectrum import as_matrix, spectral_norm
from loricate.integrity._reading import adapter_of, features_of, norms_of, weights_of
from loricate.integrity._statistics import families_of, robust_z
from loricate.integrity.features import Features
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["NormOutlier"]

_ADVICE = "load it at a strength of at most the inverse ratio, or not at all"


@final
@dataclass(frozen=True, kw_only=True)
class NormOutlier(Rule):
    """Updates that are large beside the weights they change, or beside the other updates.

    With a base it fires where the Frobenius or the spectral norm of an update exceeds that of its
    weight several times: medium from ``large`` on, high from ``huge`` on. That sees an adapter
    which is scaled a thousand times as a whole. Without a base that part is not verified, and only
    updates are seen that are ``ratio`` times the median of their family (medium; high from five
    times that ratio on).

    Cannot see an update that is small and harmful: a backdoor is as small as any other update.

    Args:
        large: Norm of the update over that of the weight from which on it is unusual.
        huge: The same, from which on nothing of the weight is left.
        ratio: Norm over the median norm of the family.
        z: Robust standard deviations of the logarithm that have to be exceeded as well.
        least: Members of a family to compare with.
        most: Weights whose spectral norm is computed; for the others a bound has to do.

    Source: Of 38 adapters trained on the embedded model (ranks 4 to 16, text encoder, denoiser or
    both) the largest relative norms are 0.42 and 1.43, z is at most 5.1 and the ratio 4.2; the
    hardening adapter of a VAE in its results reaches 1.3 and 2.6.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True

    large: float = 4.0
    huge: float = 10.0
    ratio: float = 20.0
    z: float = 6.0
    least: int = 8
    most: int = 16

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding against the base, one within the file."""
        adapter, found = adapter_of(subject), features_of(subject)
        if adapter is None or found is None:
            return
        if subject.base is None:
            why = "sizes relative to the weights need the base model: --base MODEL"
            yield self.not_verified(subject, why)
        else:
            weights = weights_of(adapter, subject.base)
            norms = norms_of(adapter, subject.base)
            sizes = np.array([norms.get(target, math.nan) for target in found.targets])
            yield from self._against_base(subject, found, weights, sizes)
        yield from self._within(subject, found)

    def _against_base(
        self,
        subject: Subject,
        found: Features,
        weights: Mapping[Target, StoredArray],
        sizes: Float[np.ndarray, " n_modules"],
    ) -> Iterator[Finding | NotVerified]:
        if n_lacking := int(np.sum(np.isnan(sizes))):
            yield self.not_verified(subject, f"{n_lacking} updates fit no weight of the base")
        relative = found.column("frobenius") / sizes
        spectral, n_unknown = self._spectral(found, weights, sizes)
        if n_unknown:
            yield self.not_verified(subject, f"the spectral norms of {n_unknown} more weights")
        largest = np.fmax(relative, spectral)
        if not np.any(largest >= self.large):
            return
        worst = int(np.nanargmax(largest))
        n_large = int(np.sum(largest >= self.large))
        yield self.finding(
            subject,
            Severity.HIGH if largest[worst] >= self.huge else Severity.MEDIUM,
            f"the update is {largest[worst]:.3g} times as large as the weight, and {n_large} are "
            f"at least {self.large:g} times",
            advice=_ADVICE,
            where=str(found.targets[worst]),
            relative_frobenius=float(relative[worst]),
            relative_spectral=float(spectral[worst]),
            n_modules=n_large,
        )

    def _spectral(
        self,
        found: Features,
        weights: Mapping[Target, StoredArray],
        sizes: Float[np.ndarray, " n_modules"],
    ) -> tuple[NDArray[np.float64], int]:
        """Relative spectral norms where they may matter and Frobenius norms do not show it."""
        sides = [_side(weights.get(target)) for target in found.targets]
        # The root mean square of the singular values is below the largest.
        at_most = found.column("spectral") / (sizes / np.sqrt(sides))
        is_open = (at_most >= self.large) & (found.column("frobenius") < self.large * sizes)
        order = np.flatnonzero(is_open)[np.argsort(-at_most[is_open])]
        spectral = np.full(len(sizes), math.nan)
        for i in order[: self.most]:
            weight = spectral_norm(as_matrix(weights[found.targets[i]]))
            spectral[i] = found.column("spectral")[i] / weight
        return spectral, len(order[self.most :])

    def _within(self, subject: Subject, found: Features) -> Iterator[Finding | NotVerified]:
        norms = found.column("frobenius")
        moved = [i for i, norm in enumerate(norms) if norm > 0]
        families, lone = families_of([found.targets[i] for i in moved], self.least)
        if lone:
            why = f"{len(lone)} updates have no family of {self.least} to compare with"
            yield self.not_verified(subject, why)
        for family, members in families.items():
            logs = np.log(norms[[moved[i] for i in members]])
            worst = int(np.argmax(logs))
            ratio, z = math.exp(logs[worst] - np.median(logs)), robust_z(logs, 0.25)[worst]
            if ratio < self.ratio or z < self.z:
                continue
            yield self.finding(
                subject,
                Severity.HIGH if ratio >= 5 * self.ratio else Severity.MEDIUM,
                f"the update is {ratio:.3g} times the median of {family}",
                advice="compare its effect with that of the adapter without this module",
                where=str(found.targets[moved[members[worst]]]),
                ratio=ratio,
                z=float(z),
                family=family,
            )


def _side(weight: StoredArray | None) -> int:
    return 1 if weight is None else min(len(weight), weight.size // len(weight))
