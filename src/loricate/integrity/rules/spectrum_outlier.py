"""Updates whose spectrum is unlike that of their family."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from numpy.typing import NDArray

from loricate.integrity._reading import features_of
from loricate.integrity._statistics import families_of, robust_z
from loricate.integrity.features import Features
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["SpectrumOutlier"]

# Least standard deviation that is assumed of each, in the units of the logarithm and of entropy.
# Kurtosis differs with the width of a layer where entries are sparse.
_SPREADS = {"peakedness": 0.1, "entropy_deficit": 0.1, "kurtosis": 0.3}


@final
@dataclass(frozen=True, kw_only=True)
class SpectrumOutlier(Rule):
    """Updates that are far more peaked than others of their family.

    Looks at the share of the largest singular value in the energy, at the entropy of the spectrum
    and at the kurtosis of the entries, kernels flattened, and fires where one of them lies many
    robust standard deviations on the peaked side of its family. Published detectors of backdoored
    language adapters rest on these numbers.

    Severity: medium.

    Cannot see a backdoor that is spread over all modules, nor one whose spectrum was kept flat on
    purpose. Of 17 backdoored adapters of the embedded model none was told from 21 clean ones this
    way: their largest z are 5.4 and 6.3.

    Args:
        z: Robust standard deviations from the median of the family.
        least: Members of a family to compare with.
        least_rank: Updates of a lower rank have too few singular values to speak of a spectrum.

    Source: Features of arXiv 2602.15195; the threshold lies above the largest z, 6.3, of 21 clean
    adapters trained on the embedded model, the hardening adapter in its results, and the benign
    corpus of ``testing``.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True

    z: float = 8.0
    least: int = 8
    least_rank: int = 4

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for the worst update of a family."""
        found = features_of(subject)
        if found is None:
            return
        is_judged = (found.column("spectral") > 0) & (found.column("rank") >= self.least_rank)
        judged = np.flatnonzero(is_judged)
        families, lone = families_of([found.targets[i] for i in judged], self.least)
        if n_open := len(lone) + int(np.sum(found.column("rank") < self.least_rank)):
            why = f"{n_open} updates have a rank below {self.least_rank}, or no family"
            yield self.not_verified(subject, f"{why} of {self.least} to compare with")
        measures = _measures(found)
        for family, members in families.items():
            rows = judged[members]
            scores = {
                name: robust_z(values[rows], _SPREADS[name]) for name, values in measures.items()
            }
            largest = np.max(list(scores.values()), axis=0)
            worst = int(np.argmax(largest))
            if largest[worst] >= self.z:
                yield self.finding(
                    subject,
                    Severity.MEDIUM,
                    f"the spectrum is {largest[worst]:.1f} robust deviations more peaked than is "
                    f"usual for {family}",
                    advice="look at what this module does alone before you trust the adapter",
                    where=str(found.targets[rows[worst]]),
                    family=family,
                    energy_share=float(found.column("energy_share")[rows[worst]]),
                    **{f"z_{name}": float(z[worst]) for name, z in scores.items()},
                )


def _measures(found: Features) -> dict[str, NDArray[np.float64]]:
    with np.errstate(divide="ignore"):
        return {
            "peakedness": -np.log(found.column("stable_rank")),
            "entropy_deficit": -found.column("entropy"),
            "kurtosis": np.log(found.column("kurtosis")),
        }
