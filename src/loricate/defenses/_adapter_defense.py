"""The contract of adapters that are trained."""

from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from loricate.basics.spec import Fraction01, Spec
from loricate.core.shapes import Images
from loricate.core.training import Observer
from loricate.defenses._target import Target, Trained, started
from loricate.defenses._training import LossesOfStep, Schedule, Training, identity
from loricate.lowrank.budget import Budget
from loricate.surfaces.attach import Attached

__all__ = ["AdapterDefense"]


@dataclass(frozen=True, kw_only=True)
class AdapterDefense(Spec):
    """Trains an adapter; subclasses write ``losses`` alone.

    Args:
        rank_budget: Entries of the factors over entries of the weights they update, at the end.
        schedule: Steps and rates.
    """

    registry_kind = "defenses"

    rank_budget: Fraction01 = 0.1
    schedule: Schedule = field(default_factory=Schedule)

    @final
    def train(
        self,
        target: Target,
        images: Images,
        *,
        seed: int,
        observe: Observer,
        checkpoint: Path | None = None,
        phase: str = "train",
    ) -> Trained:
        """Train an adapter onto a module.

        Args:
            target: What is protected and where the adapter goes. Its weights are never written.
            images: Calibration pictures in [0, 1].
            seed: Seed of every draw.
            observe: Told about every step.
            checkpoint: File from which a killed run continues.
            phase: Name given to the observer.

        Returns:
            The updates, attached, and the course of the training.
        """
        with started(target, self.budgets(), seed=seed) as (attached, ranks, budgets):
            training = Training(
                attached=attached,
                schedule=self.schedule,
                budgets=budgets,
                losses=self.losses(target, attached, images, seed),
                checkpoint=checkpoint,
                identity=identity(self, seed, images, ranks, attached),
                phase=phase,
            )
            training.run(observe)
        return Trained(attached, training.log(ranks))

    def budgets(self) -> tuple[Budget, Budget]:
        """Parameter budgets at the start and at the end of the training."""
        budget = Budget(fraction=float(self.rank_budget), min_rank=0)
        return budget, budget

    @abstractmethod
    def losses(self, target: Target, attached: Attached, images: Images, seed: int) -> LossesOfStep:
        """What is descended; every draw in it is addressed by the step.

        Args:
            target: What is protected.
            attached: The updates under training.
            images: Calibration pictures.
            seed: Seed of every draw.

        Returns:
            A function of the step.
        """
