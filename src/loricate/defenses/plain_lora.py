"""Low-rank adapters trained without an attack: the control of equal compute."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from torch import Tensor

from loricate.basics.spec import Fraction01, Spec
from loricate.core.shapes import Images
from loricate.core.training import Observer
from loricate.defenses._target import Target, Trained, augmented, batch_rows, started
from loricate.defenses._training import Losses, Schedule, Training, identity
from loricate.lowrank.budget import Budget

__all__ = ["PlainLora"]


@final
@dataclass(frozen=True, kw_only=True)
class PlainLora(Spec):
    """Fine-tunes on clean pictures to reproduce them better; nothing is attacked.

    Same layers, ranks and steps as the adapter it stands beside, so what it does not gain is not
    due to more training.

    Args:
        rank_budget: Entries of the factors over entries of the weights they update.
        schedule: Steps and rates.
    """

    registry_kind = "defenses"

    rank_budget: Fraction01 = 0.1
    schedule: Schedule = field(default_factory=Schedule)

    def train(
        self,
        target: Target,
        images: Images,
        *,
        seed: int,
        observe: Observer,
        checkpoint: Path | None = None,
        phase: str = "control",
    ) -> Trained:
        """Train an adapter onto a module.

        Args:
            target: Its surface maps pictures to reconstructions.
            images: Calibration pictures in [0, 1].
            seed: Seed of every draw.
            observe: Told about every step.
            checkpoint: File from which a killed run continues.
            phase: Name given to the observer.

        Returns:
            The updates, attached, and the course of the training.
        """
        budget = Budget(fraction=float(self.rank_budget), min_rank=0)
        with started(target, (budget, budget), seed=seed) as (attached, ranks, budgets):
            training = Training(
                attached=attached,
                schedule=self.schedule,
                budgets=budgets,
                losses=self._losses(target, images, seed),
                checkpoint=checkpoint,
                identity=identity(self, seed, images, ranks, attached),
                phase=phase,
            )
            training.run(observe)
        return Trained(attached, training.log(ranks))

    def _losses(
        self, target: Target, images: Images, seed: int
    ) -> Callable[[int, dict[str, float]], Losses]:
        def losses(step: int, state: dict[str, float]) -> dict[str, Tensor]:
            rows = batch_rows(len(images), self.schedule.batch_size, seed=seed, step=step)
            x = augmented(images[rows], seed, step)
            error = (target.surface(x, [0] * len(x)) - x).pow(2).mean()
            return {"total": error}

        return losses
