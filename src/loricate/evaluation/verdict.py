"""From evidence to pass, fail or inconclusive: a pure function with its floors in one place."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loricate.records.names import (
    BASE,
    HARDENED,
    NO_ATTACK,
    RANDOM_NOISE,
    STRONGEST,
    Metrics,
    epsilon_text,
    stem,
)
from loricate.records.schema import Aggregate, Check, Criterion, Integrity, Verdict

__all__ = ["Evidence", "Thresholds", "decide"]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Floors a hardened model has to reach, and where they are measured.

    Args:
        epsilon: Budget at which attack success is judged, in domain units.
        trained_epsilon: Budget at which latent drift is judged: the one trained against.
        norm: Norm of both budgets.
        success_over_noise: Least success on the base, as a multiple of equal-norm noise.
        success_of_base: Most success on the hardened model, as a fraction of the base's.
        drift_ratio: Least factor by which latent drift under attack shrinks.
        psnr_drop: Most clean reconstruction quality that may be lost, in dB.
        clean_drift: Most relative distance between clean latents, hardened to base.
        alignment_drop: Most prompt alignment that may be lost, as a fraction.
    """

    epsilon: float = 8 / 255
    trained_epsilon: float = 8 / 255
    norm: str = "linf"
    success_over_noise: float = 4.0
    success_of_base: float = 0.5
    drift_ratio: float = 2.0
    psnr_drop: float = 1.0
    clean_drift: float = 0.10
    alignment_drop: float = 0.03


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a run measured.

    Args:
        aggregates: Numbers over samples.
        checks: Sanity flags.
        integrity: What was verified about the weights.
    """

    aggregates: Sequence[Aggregate] = ()
    checks: Sequence[Check] = ()
    integrity: Integrity | None = None

    def clean(self, subject: str, metric: str) -> Aggregate | None:
        """A metric without attack."""
        return self._only(subject, metric, NO_ATTACK, 0.0, None)

    def attacked(
        self, subject: str, metric: str, attack: str, epsilon: float, norm: str
    ) -> Aggregate | None:
        """A metric under an attack, if the record holds it exactly once."""
        return self._only(subject, metric, attack, epsilon, norm)

    def _only(
        self, subject: str, metric: str, attack: str, epsilon: float, norm: str | None
    ) -> Aggregate | None:
        found = [
            a
            for a in self.aggregates
            if (a.subject, a.metric, a.attack) == (subject, metric, attack)
            and math.isclose(a.epsilon, epsilon, rel_tol=1e-6)
            and norm in (None, a.norm)
        ]
        # Two answers to one question are no answer: which of them counts would be our choice.
        if len(found) != 1 or found[0].n == 0 or math.isnan(found[0].value):
            return None
        return found[0]


def decide(evidence: Evidence, thresholds: Thresholds) -> Verdict:
    """The verdict that follows from the evidence, criterion by criterion.

    A criterion without evidence is undecided, and so is one that the estimates meet but the
    intervals leave open. One failed criterion fails the run; an undecided one makes it
    inconclusive.
    """
    criteria = (
        _success_over_noise(evidence, thresholds),
        _success_of_base(evidence, thresholds),
        _drift_ratio(evidence, thresholds),
        _psnr_drop(evidence, thresholds),
        _clean_drift(evidence, thresholds),
        _alignment_drop(evidence, thresholds),
        _integrity(evidence),
        _checks(evidence),
    )
    return Verdict(
        status=_status([criterion.passed for criterion in criteria]),
        criteria=criteria,
        epsilon=thresholds.epsilon,
        trained_epsilon=thresholds.trained_epsilon,
    )


def _status(outcomes: Sequence[bool | None]) -> Literal["pass", "fail", "inconclusive"]:
    if False in outcomes:
        return "fail"
    return "inconclusive" if None in outcomes else "pass"


def _success_over_noise(evidence: Evidence, thresholds: Thresholds) -> Criterion:
    at = thresholds.epsilon, thresholds.norm
    base = evidence.attacked("base", Metrics.ATTACK_SUCCESS, STRONGEST, *at)
    noise = evidence.attacked("base", Metrics.ATTACK_SUCCESS, RANDOM_NOISE, *at)
    factor = thresholds.success_over_noise
    blank = Criterion(
        name="base_success_over_noise",
        requirement=f"at {_budget(at)} the attack breaks the base at least {factor:g} times as "
        "often as equal-norm noise, intervals apart",
        threshold=factor,
        aim=16.0,
        unit="ratio",
    )
    if base is None or noise is None:
        return _undecided(blank)
    if base.value == 0:
        return _settled(blank, math.nan, False, "no attack broke the base: nothing to defend here")
    met = base.value >= factor * noise.value
    return _settled(blank, _ratio(base, noise), met and _resolved(met, noise, base))


def _success_of_base(evidence: Evidence, thresholds: Thresholds) -> Criterion:
    at = thresholds.epsilon, thresholds.norm
    base = evidence.attacked("base", Metrics.ATTACK_SUCCESS, STRONGEST, *at)
    hardened = evidence.attacked("hardened", Metrics.ATTACK_SUCCESS, STRONGEST, *at)
    share = thresholds.success_of_base
    blank = Criterion(
        name="hardened_success_of_base",
        requirement=f"at {_budget(at)} an adaptive attack breaks the hardened model at most "
        f"{share:g} times as often as the base, intervals apart",
        threshold=share,
        aim=0.25,
        unit="ratio",
    )
    if base is None or hardened is None:
        return _undecided(blank)
    met = hardened.value <= share * base.value
    return _settled(blank, _ratio(hardened, base), met and _resolved(met, hardened, base))


def _drift_ratio(evidence: Evidence, thresholds: Thresholds) -> Criterion:
    at = thresholds.trained_epsilon, thresholds.norm
    blank = Criterion(
        name="latent_drift_ratio",
        requirement=f"at {_budget(at)} latent drift under attack is at least "
        f"{thresholds.drift_ratio:g} times smaller than the base's",
        threshold=thresholds.drift_ratio,
        aim=4.0,
        unit="ratio",
    )
    return _at_least(blank, evidence.attacked("hardened", Metrics.DRIFT_REDUCTION, STRONGEST, *at))


def _psnr_drop(evidence: Evidence, thresholds: Thresholds) -> Criterion:
    blank = Criterion(
        name="reconstruction_psnr_drop",
        requirement=f"clean reconstruction loses at most {thresholds.psnr_drop:g} dB PSNR",
        threshold=thresholds.psnr_drop,
        aim=0.3,
        unit="dB",
    )
    return _at_most(blank, evidence.clean("hardened", Metrics.PSNR_LOSS))


def _clean_drift(evidence: Evidence, thresholds: Thresholds) -> Criterion:
    blank = Criterion(
        name="clean_latent_drift",
        requirement=f"clean latents move by at most {100 * thresholds.clean_drift:g} %",
        threshold=thresholds.clean_drift,
        aim=0.05,
        unit="fraction",
    )
    return _at_most(blank, evidence.clean("hardened", Metrics.LATENT_DRIFT))


def _alignment_drop(evidence: Evidence, thresholds: Thresholds) -> Criterion:
    points = 100 * thresholds.alignment_drop
    blank = Criterion(
        name="prompt_alignment_drop",
        requirement=f"prompt alignment loses at most {points:g} percentage points",
        threshold=thresholds.alignment_drop,
        aim=0.01,
        unit="fraction",
    )
    return _at_most(blank, evidence.clean("hardened", Metrics.ALIGNMENT_LOSS))


def _at_least(blank: Criterion, found: Aggregate | None) -> Criterion:
    """Settled by the whole interval; open where only the estimate reaches the floor."""
    if found is None or blank.threshold is None:
        return _undecided(blank)
    met = found.value >= blank.threshold
    return _settled(blank, found.value, (found.low >= blank.threshold or None) if met else False)


def _at_most(blank: Criterion, found: Aggregate | None) -> Criterion:
    """As ``_at_least``, for a ceiling."""
    if found is None or blank.threshold is None:
        return _undecided(blank)
    met = found.value <= blank.threshold
    return _settled(blank, found.value, (found.high <= blank.threshold or None) if met else False)


def _integrity(evidence: Evidence) -> Criterion:
    blank = Criterion(
        name="integrity",
        requirement="the base is untouched, gain 0 reproduces it bit for bit, and the merged "
        "model equals the attached one",
    )
    if evidence.integrity is None:
        return _undecided(blank)
    return _settled(blank, None, evidence.integrity.holds)


def _checks(evidence: Evidence) -> Criterion:
    judged = [check for check in evidence.checks if stem(check.subject) in (BASE, HARDENED)]
    made = [check for check in judged if check.level != "skipped"]
    errors = [check.name for check in made if check.level == "error"]
    blank = Criterion(name="sanity_checks", requirement="no sanity check failed", threshold=0.0)
    if not made:
        return _undecided(blank)
    return _settled(blank, float(len(errors)), not errors, ", ".join(sorted(set(errors))))


def _resolved(met: bool, lower: Aggregate, upper: Aggregate) -> bool | None:
    """Whether a difference in the right direction is beyond chance; ``None`` if it may be."""
    return True if met and lower.high < upper.low else None


def _undecided(blank: Criterion) -> Criterion:
    return blank.model_copy(update={"note": "not measured, or not exactly once"})


def _settled(
    blank: Criterion, measured: float | None, passed: bool | None, note: str = ""
) -> Criterion:
    if passed is None:
        note = "the intervals leave it open; more samples would decide it"
    return blank.model_copy(update={"measured": measured, "passed": passed, "note": note})


def _ratio(above: Aggregate, below: Aggregate) -> float:
    if below.value == 0:
        return math.nan if above.value == 0 else math.inf
    return above.value / below.value


def _budget(at: tuple[float, str]) -> str:
    return f"{at[1]} {epsilon_text(at[0])}"
