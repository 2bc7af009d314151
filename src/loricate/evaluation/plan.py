"""What is attacked, how, and on how many pictures."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Final, Literal

from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.registry import key_of
from loricate.basics.spec import Count, Fraction01, PixelLength, Radius, Spec
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.family import EditSettings
from loricate.core.objective import Objective
from loricate.core.threat import ThreatModel
from loricate.evaluation.battery import BatteryPlan
from loricate.records.condition import CLEAN, Condition
from loricate.records.names import NO_OBJECTIVE, epsilon_text, stem

__all__ = ["Plan", "Trial"]

_VARIANT: Final = re.compile(r"[A-Za-z0-9 _.+-]{0,40}")


@dataclass(frozen=True, kw_only=True)
class Trial(Spec):
    """One attack on some subjects at some radii.

    Args:
        attack: How the budget is searched.
        objective: What is maximized.
        epsilons: Radii in pixel units; of an ``l2`` ball over the whole picture, so above 1 too.
        subjects: Which models; all by default.
        norm: Norm of the ball.
        eot_samples: Draws averaged on random surfaces.
        n_images: Pictures attacked, from the first; all by default.
        variant: Name that tells the trial from another one with the same attack, objective and
            radius, such as ``ascent`` and ``descent`` of score distillation.
    """

    attack: Attack
    objective: Objective
    epsilons: tuple[Radius, ...]
    subjects: tuple[str, ...] = ()
    norm: Literal["linf", "l2"] = "linf"
    eot_samples: Count = 1
    n_images: Count | None = None
    variant: str = ""

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Radii that the norm does not take: in ``linf`` they nearly always lost a ``/255``."""
        for index, epsilon in enumerate(self.epsilons):
            try:
                ball(self.norm, epsilon)
            except ConfigError as error:
                for problem in error.problems:
                    yield replace(problem, key=f"epsilons.{index}")
        if not _VARIANT.fullmatch(self.variant):
            expected = "at most 40 letters, digits, spaces or any of _.+-, as it names files"
            yield ConfigProblem(key="variant", expected=expected, got=self.variant)

    def threat(self, epsilon: float) -> ThreatModel:
        """Budget and draws at one radius."""
        return ThreatModel(ball=ball(self.norm, epsilon), eot_samples=self.eot_samples)

    def condition(self, epsilon: float) -> Condition:
        """What the record calls the trial at one radius."""
        surface, objective = self.objective.surface_kind, key_of(type(self.objective))
        if isinstance(self.attack, RandomNoise):
            surface, objective = CLEAN.surface, NO_OBJECTIVE
        attack = key_of(type(self.attack))
        return Condition(surface, attack, objective, self.norm, float(epsilon), self.variant)

    def includes(self, subject: str) -> bool:
        """Whether a subject is attacked."""
        return not self.subjects or not {subject, stem(subject)}.isdisjoint(self.subjects)


@dataclass(frozen=True, kw_only=True)
class Plan(Spec):
    """An evaluation, the same for every subject.

    Args:
        trials: Attacks, cheapest first.
        epsilon: Radius at which the verdict is taken and the edit rule is calibrated.
        n_images: Held-out pictures.
        batch_size: Pictures of up to 64 x 64 pixels attacked together; of larger ones as many as
            have no more pixels, at least one.
        edit: Sampler whose edits are scored.
        attacked_edit: Sampler inside the graph of end-to-end attacks.
        visible_ssim: An edit closer to the clean one than this is not broken.
        percentile: Share of benign changes that must not count as broken.
        battery: How the attack itself is checked, on the hardened model; ``None`` leaves it out.
    """

    trials: tuple[Trial, ...]
    epsilon: PixelLength = 8 / 255
    n_images: Count = 100
    batch_size: Count = 50
    edit: EditSettings = field(default_factory=EditSettings)
    attacked_edit: EditSettings = field(default_factory=lambda: EditSettings(num_inference_steps=4))
    visible_ssim: Fraction01 = 0.9
    percentile: Fraction01 = 0.95
    battery: BatteryPlan | None = None

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Conditions that occur twice, whose rows would be indistinguishable; another radius."""
        if self.battery is not None and self.battery.epsilon != self.epsilon:
            expected = f"the radius of the verdict, {epsilon_text(self.epsilon)}"
            yield ConfigProblem(key="battery.epsilon", expected=expected, got=self.battery.epsilon)
        for (i, first), (j, second) in combinations(enumerate(self.trials), 2):
            if _share_rows(first, second):
                expected = f"another attack, objective, norm, radius or variant than trials.{i}"
                yield ConfigProblem(key=f"trials.{j}", expected=expected, got="the same")


def _share_rows(first: Trial, second: Trial) -> bool:
    subjects = not first.subjects or not second.subjects or {*first.subjects} & {*second.subjects}
    conditions = [{trial.condition(e) for e in trial.epsilons} for trial in (first, second)]
    return bool(subjects and conditions[0] & conditions[1])
