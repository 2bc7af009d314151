"""Low-rank adapters trained against an attack, anchored to the frozen base."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from loricate.basics.spec import Fraction01, PixelLength, Weight
from loricate.core.against import Against
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.defense import Regularizer
from loricate.core.generators import sample_seeds
from loricate.core.problem import Problem
from loricate.core.shapes import Images
from loricate.core.threat import ThreatModel
from loricate.defenses._adapter_defense import AdapterDefense
from loricate.defenses._anchor import Anchor
from loricate.defenses._target import Reference, Target, augmented, batch_rows
from loricate.defenses._training import Losses, LossesOfStep
from loricate.lowrank.budget import Budget
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.attach import Attached

__all__ = ["AdversarialLora"]

_TINY = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class AdversarialLora(AdapterDefense):
    """Low-rank update that keeps outputs near the frozen base's, attacked or not.

    Minimizes ``drift(x + delta)^2 + anchor * drift(x)^2``, drift being the distance to the frozen
    output over the spread of outputs. The anchor weight is a multiplier that rises while the
    clean drift exceeds ``max_drift`` and falls below it, so the clean cost is chosen, not hoped
    for. Ranks start from the spectra of the weights and are re-allocated by robust importance.

    Args:
        inner: Attack of the training; differ from the one used to evaluate.
        norm: Norm of its ball.
        epsilon: Its radius in pixel units.
        ramp: Share of the steps over which the radius grows from 0.
        oversize: Budget at the start over that at the end; 1 keeps the first ranks.
        max_drift: Clean drift aimed at.
        anchor: Anchor weight at the start.
        regularizers: Penalties on the update.

    Source: FARE, Schlarmann et al. 2024 [schlarmann2024], equation 3; re-allocation after AdaLoRA
    [adalora2023]. Deviates: low-rank, normalized, with a constrained clean drift.
    """

    inner: Attack
    norm: Literal["linf", "l2"] = "linf"
    epsilon: PixelLength = 8 / 255
    ramp: Fraction01 = 0.2
    oversize: Weight = 2.0
    max_drift: Fraction01 = 0.05
    anchor: Weight = 1.0
    regularizers: tuple[Regularizer, ...] = ()

    def losses(self, target: Target, attached: Attached, images: Images, seed: int) -> LossesOfStep:
        """Drift under attack and without, the regularizers' penalties beside them."""
        with torch.no_grad(), attached.off():
            reference = Reference.of(target.surface, images)
        return _Step(self, target, attached, images, reference, seed)

    def radius(self, step: int) -> float:
        """Radius of the ball at a step."""
        ramp = max(1.0, self.ramp * self.schedule.steps)
        return float(self.epsilon) * min(1.0, (step + 1) / ramp)

    def budgets(self) -> tuple[Budget, Budget]:
        """A larger budget at the start, from which components are dropped."""
        start = min(1.0, self.rank_budget * max(1.0, self.oversize))
        return Budget(fraction=start, min_rank=1), super().budgets()[1]


@dataclass(frozen=True)
class _Step:
    """Losses of one step, a pure function of its number and the multiplier."""

    spec: AdversarialLora
    target: Target
    attached: Attached
    images: Images
    reference: Reference
    seed: int

    def __call__(self, step: int, state: dict[str, float]) -> Losses:
        rows = batch_rows(
            len(self.images), self.spec.schedule.batch_size, seed=self.seed, step=step
        )
        x = augmented(self.images[rows], self.seed, step)
        with torch.no_grad(), self.attached.off():
            base = self.target.surface(x, [0] * len(x))
        attacked = self._attack(x, base, step, rows.tolist())
        outputs = self.target.surface(torch.cat([x, attacked]), [0] * 2 * len(x))
        clean, robust = outputs.chunk(2)
        drift = self.reference.drift(clean, base).mean()
        robust_drift = self.reference.drift(robust, base).mean()
        anchor = Anchor(float(self.spec.max_drift), float(self.spec.anchor)).weight(
            state, float(drift.detach())
        )
        penalty = self._penalty()
        return {
            "total": (robust_drift + anchor * drift) / (1 + anchor) + penalty,
            "robust": robust_drift.sqrt(),
            "drift": (drift + _TINY).sqrt(),
            "anchor": torch.tensor(anchor),
            "penalty": penalty,
        }

    def _attack(self, x: Images, base: Tensor, step: int, rows: Sequence[int]) -> Images:
        threat = ThreatModel(ball=ball(self.spec.norm, self.spec.radius(step)))
        seeds = sample_seeds(self.seed, rows, "inner", step)
        away = Against(objective=LatentShift(), given=base)
        problem = Problem(self.target.surface, away, threat, x, seeds)
        return self.spec.inner.perturb(x, problem).detach()

    def _penalty(self) -> Tensor:
        base = self.attached.base_weights()
        updates = {path: update.matrix() for path, update in self.attached.updates.items()}
        penalties = [r.weight * r.penalty(base, updates) for r in self.spec.regularizers]
        return sum(penalties, torch.zeros((), device=self.images.device))
