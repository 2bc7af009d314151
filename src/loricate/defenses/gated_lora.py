"""Two-branch gated LoRA that lets a denoiser be fine-tuned on attacked pictures (LoRD)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import torch

from loricate.basics.errors import ShapeError
from loricate.basics.spec import Count, Spec, Weight
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Batch
from loricate.core.training import Observer
from loricate.defenses._gated import GatedTarget, GatedTrained
from loricate.defenses._target import batch_rows
from loricate.defenses._training import Losses, Schedule, Training, identity
from loricate.lowrank.budget import Budget
from loricate.surfaces.gated import GatedAttached, attach_gated, watched

__all__ = ["GatedLora"]

_TINY = 1e-6


@final
@dataclass(frozen=True, kw_only=True)
class GatedLora(Spec):
    """Learns to denoise clean and attacked latents, the latter through a gated second branch.

    Minimizes ``error(clean) + error(attacked)`` plus ``gate_weight`` times the cross-entropy of
    the mean gate, which should be shut on clean latents and open on attacked ones. Frozen on its
    module, it takes up what an attack wants a user's LoRA to learn; that LoRA is trained on top
    of it and used with it.

    Args:
        rank: Rank of both branches.
        gate_weight: Weight of the gate's cross-entropy; 0 leaves the gate to the error alone.
        schedule: Steps and rates.

    Source: LoRD [lord2026], both stages. Deviates: the attacked latents are given instead of
    attacked anew at every step, and the gate is supervised, as its training is not published.
    """

    registry_kind = "defenses"

    rank: Count = 4
    gate_weight: Weight = 2.0
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=150, batch_size=8, learning_rate=1e-2)
    )

    def train_gated(
        self,
        target: GatedTarget,
        clean: Batch,
        attacked: Batch,
        *,
        seed: int,
        observe: Observer,
        checkpoint: Path | None = None,
    ) -> GatedTrained:
        """Train gated updates onto a module.

        Args:
            target: What is protected; its weights are never written.
            clean: Latents of pictures.
            attacked: Latents of the same pictures under attack.
            seed: Seed of every draw.
            observe: Told about every step.
            checkpoint: File from which a killed run continues.

        Returns:
            The updates, attached and frozen.

        Raises:
            ShapeError: Clean and attacked latents do not pair up.
        """
        if clean.shape != attacked.shape:
            expected = f"attacked latents of shape {tuple(clean.shape)}"
            raise ShapeError(expected, tuple(attacked.shape), where="attacked")
        ranks = dict.fromkeys(target.paths, int(self.rank))
        attached = attach_gated(target.module, ranks, seed=seed)
        try:
            training = self._training(target, attached, (clean, attacked), seed, checkpoint, ranks)
            training.run(observe)
        except BaseException:
            attached.detach()
            raise
        attached.freeze()
        return GatedTrained(attached, training.log(ranks))

    def _training(
        self,
        target: GatedTarget,
        attached: GatedAttached,
        pair: tuple[Batch, Batch],
        seed: int,
        checkpoint: Path | None,
        ranks: Mapping[str, int],
    ) -> Training:
        unchanged = Budget(fraction=1.0, min_rank=0)
        return Training(
            attached=attached,
            schedule=self.schedule,
            budgets=(unchanged, unchanged),
            losses=_Step(self, target, *pair, seed),
            checkpoint=checkpoint,
            identity=identity(self, seed, torch.cat(pair), ranks, attached),
        )


@dataclass(frozen=True)
class _Step:
    """Losses of one step, a pure function of its number."""

    spec: GatedLora
    target: GatedTarget
    clean: Batch
    attacked: Batch
    seed: int

    def __call__(self, step: int, state: dict[str, float]) -> Losses:
        size = self.spec.schedule.batch_size
        rows = batch_rows(len(self.clean), size, seed=self.seed, step=step)
        seeds = sample_seeds(self.seed, rows.tolist(), "denoising", step)
        latents = torch.cat([self.clean[rows], self.attacked[rows]])
        with watched(self.target.module) as gates:
            error = self.target.error(latents, torch.cat([rows, rows]), [*seeds, *seeds])
        clean, attacked = error.chunk(2)
        shut, opened = gates.mean().clamp(_TINY, 1 - _TINY).chunk(2)
        entropy = -((1 - shut).log() + opened.log()).mean() / 2
        return {
            "total": clean.mean() + attacked.mean() + self.spec.gate_weight * entropy,
            "clean": clean.mean(),
            "attacked": attacked.mean(),
            "gate_clean": shut.mean(),
            "gate_attacked": opened.mean(),
        }
