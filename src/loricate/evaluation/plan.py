"""What is attacked, how, and on how many pictures."""

from dataclasses import dataclass, field
from typing import Literal

from loricate.basics.spec import Count, Fraction01, PixelLength, Spec
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.family import EditSettings
from loricate.core.objective import Objective
from loricate.core.threat import ThreatModel

__all__ = ["Plan", "Trial"]


@dataclass(frozen=True, kw_only=True)
class Trial(Spec):
    """One attack on some subjects at some radii.

    Args:
        attack: How the budget is searched.
        objective: What is maximized.
        epsilons: Radii in pixel units.
        subjects: Which models; all by default.
        norm: Norm of the ball.
        eot_samples: Draws averaged on random surfaces.
        n_images: Pictures attacked, from the first; all by default.
    """

    attack: Attack
    objective: Objective
    epsilons: tuple[PixelLength, ...]
    subjects: tuple[str, ...] = ()
    norm: Literal["linf", "l2"] = "linf"
    eot_samples: Count = 1
    n_images: Count | None = None

    def threat(self, epsilon: float) -> ThreatModel:
        """Budget and draws at one radius."""
        return ThreatModel(ball=ball(self.norm, epsilon), eot_samples=self.eot_samples)

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
        batch_size: Pictures attacked together.
        edit: Sampler whose edits are scored.
        attacked_edit: Sampler inside the graph of end-to-end attacks.
        visible_ssim: An edit closer to the clean one than this is not broken.
        percentile: Share of benign changes that must not count as broken.
    """

    trials: tuple[Trial, ...]
    epsilon: PixelLength = 8 / 255
    n_images: Count = 100
    batch_size: Count = 50
    edit: EditSettings = field(default_factory=EditSettings)
    attacked_edit: EditSettings = field(default_factory=lambda: EditSettings(num_inference_steps=4))
    visible_ssim: Fraction01 = 0.9
    percentile: Fraction01 = 0.95
