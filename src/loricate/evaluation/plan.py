"""What is attacked, how, and on how many pictures."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.registry import key_of
from loricate.basics.spec import Count, Fraction01, PixelLength, Radius, Spec
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.family import EditSettings
from loricate.core.objective import Objective
from loricate.core.threat import ThreatModel
from loricate.records.names import NO_OBJECTIVE
from loricate.records.schema import SampleRow

__all__ = ["Condition", "Plan", "Trial"]


@dataclass(frozen=True)
class Condition:
    """A trial at one radius, in the words of the record.

    Args:
        surface: What is attacked.
        attack: Registry key.
        objective: Registry key, or ``none`` where nothing is maximized.
        epsilon: Radius in pixel units.
        norm: Norm of the ball.
    """

    surface: str
    attack: str
    objective: str
    epsilon: float
    norm: str

    @classmethod
    def of_row(cls, row: SampleRow) -> "Condition":
        """Condition a row was measured under."""
        return cls(row.surface, row.attack, row.objective, row.epsilon, row.norm)

    def row(self, subject: str, sample: int, seed: int) -> SampleRow:
        """A row without values."""
        return SampleRow(
            subject=subject,
            surface=self.surface,
            attack=self.attack,
            objective=self.objective,
            epsilon=self.epsilon,
            norm=self.norm,
            seed=seed,
            sample=sample,
            values={},
        )


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
    """

    attack: Attack
    objective: Objective
    epsilons: tuple[Radius, ...]
    subjects: tuple[str, ...] = ()
    norm: Literal["linf", "l2"] = "linf"
    eot_samples: Count = 1
    n_images: Count | None = None

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Radii that the norm does not take: in ``linf`` they nearly always lost a ``/255``."""
        for index, epsilon in enumerate(self.epsilons):
            try:
                ball(self.norm, epsilon)
            except ConfigError as error:
                for problem in error.problems:
                    yield replace(problem, key=f"epsilons.{index}")

    def threat(self, epsilon: float) -> ThreatModel:
        """Budget and draws at one radius."""
        return ThreatModel(ball=ball(self.norm, epsilon), eot_samples=self.eot_samples)

    def condition(self, epsilon: float) -> Condition:
        """What the record calls the trial at one radius."""
        attack = key_of(type(self.attack))
        if isinstance(self.attack, RandomNoise):
            return Condition("pipeline", attack, NO_OBJECTIVE, float(epsilon), self.norm)
        objective = key_of(type(self.objective))
        surface = self.objective.surface_kind
        return Condition(surface, attack, objective, float(epsilon), self.norm)

    def includes(self, subject: str) -> bool:
        """Whether a subject is attacked."""
        return not self.subjects or subject in self.subjects


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
        probe_steps: Lengths of the attacks that show whether more steps still gain; those of the
            longest on the base are also tried on the hardened model.
        n_probed: Pictures they are run on.
    """

    trials: tuple[Trial, ...]
    epsilon: PixelLength = 8 / 255
    n_images: Count = 100
    batch_size: Count = 50
    edit: EditSettings = field(default_factory=EditSettings)
    attacked_edit: EditSettings = field(default_factory=lambda: EditSettings(num_inference_steps=4))
    visible_ssim: Fraction01 = 0.9
    percentile: Fraction01 = 0.95
    probe_steps: tuple[Count, ...] = (5, 25, 50)
    n_probed: Count = 32

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Conditions that occur twice: their rows would be indistinguishable in the record."""
        for (i, first), (j, second) in combinations(enumerate(self.trials), 2):
            if _share_rows(first, second):
                expected = f"another attack, objective, norm or radius than trials.{i}"
                yield ConfigProblem(key=f"trials.{j}", expected=expected, got="the same")


def _share_rows(first: Trial, second: Trial) -> bool:
    subjects = not first.subjects or not second.subjects or {*first.subjects} & {*second.subjects}
    conditions = [{trial.condition(e) for e in trial.epsilons} for trial in (first, second)]
    return bool(subjects and conditions[0] & conditions[1])
