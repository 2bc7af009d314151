"""One deployed encoder, attacked and measured by draws of their own."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from loricate.core.attack import Attack, AttackResult
from loricate.core.balls import L2, Linf
from loricate.core.family import EditSettings
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images, PerSample
from loricate.core.surface import Surface
from loricate.core.threat import ThreatModel
from loricate.evaluation.subjects import Pictures, Subject
from loricate.metrics.latent_drift import LatentDrift
from loricate.objectives.latent_shift import LatentShift
from loricate.records.schema import Check

__all__ = ["Bench", "levelled"]


@dataclass(frozen=True)
class Bench:
    """A subject with pictures to attack it on.

    Args:
        subject: The deployed model.
        pictures: Clean pictures.
        seed: Root seed; attacks and scores draw from different addresses below it.
        scoring_draws: Draws a score is the mean of, where something deployed is random.
    """

    subject: Subject
    pictures: Pictures
    seed: int
    scoring_draws: int = 1

    @cached_property
    def surface(self) -> Surface:
        """Preprocessing and encoder."""
        return self.subject.surface(LatentShift(), self.pictures.prompts, EditSettings())

    @property
    def is_random(self) -> bool:
        """Whether something deployed draws."""
        return self.surface.is_random

    def attacked(
        self,
        attack: Attack,
        ball: Linf | L2,
        *,
        eot_samples: int = 1,
        run: int = 0,
        surface: Surface | None = None,
    ) -> AttackResult:
        """What an attack finds; another ``run`` has other random numbers.

        Args:
            attack: How the budget is searched.
            ball: The budget.
            eot_samples: Draws averaged.
            run: Which of several independent runs.
            surface: What is attacked in place of the subject.
        """
        threat = ThreatModel(ball=ball, eot_samples=eot_samples)
        seeds = sample_seeds(self.seed, self.pictures.indices, "battery", run)
        return attack(
            surface or self.surface, LatentShift(), threat, self.pictures.images, seeds=seeds
        )

    def drift(self, images: Images) -> PerSample:
        """Mean latent drift of each picture over draws no attack has seen."""
        return self.drifts(images, self.scoring_draws if self.is_random else 1).mean(0)

    @torch.no_grad()
    def drifts(self, images: Images, draws: int) -> Tensor:
        """Latent drift by scoring draw and picture, (draws, n)."""
        rows = []
        for draw in range(draws):
            seeds = self.scoring_seeds(draw)
            moved, clean = (self.surface(x, seeds) for x in (images, self.pictures.images))
            rows.append(LatentDrift()(moved, clean))
        return torch.stack(rows)

    @torch.no_grad()
    def preprocessed(self, images: Images, draw: int) -> Images:
        """What reaches the encoder, by one scoring draw."""
        for defense in self.subject.deployed:
            images = defense(images, self.scoring_seeds(draw))
        return images

    def scoring_seeds(self, draw: int) -> list[int]:
        """Seeds of one scoring draw."""
        return sample_seeds(self.seed, self.pictures.indices, "battery score", draw)


def levelled(
    name: str,
    subject: str,
    message: str,
    data: dict[str, float],
    *,
    is_wrong: bool = False,
    is_odd: bool = False,
) -> Check:
    """A check that was made.

    Args:
        name: Its section in ``docs/checks.md``.
        subject: The model it speaks about.
        message: The finding.
        data: The numbers behind it.
        is_wrong: The evidence is not to be trusted.
        is_odd: It is worth a look.
    """
    level: Literal["ok", "warning", "error"] = "ok"
    if is_wrong or is_odd:
        level = "error" if is_wrong else "warning"
    return Check(name=name, level=level, subject=subject, message=message, data=data)
