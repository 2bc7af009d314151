"""One fine-tune: which model, on what pictures, and what came of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from loricate import models
from loricate.core.generators import sample_seeds
from loricate.evaluation.fine_tuning import Concept, Trial, fine_tune, noised
from loricate.families._judge import ClipJudge
from loricate.families.sd15 import SD15
from loricate.surfaces.gated import watched
from poisoning.attacker import Attacker
from poisoning.cache import Cache
from poisoning.defended import Defended
from poisoning.pictures import concept
from poisoning.plan import AIMS, Plan

Kind = Literal["base", "untuned", "lord", "plain"]


@dataclass(frozen=True)
class Bench:
    """The model, the plan, and where results are kept.

    Args:
        plan: What is measured.
        cache: What is measured already.
    """

    plan: Plan
    cache: Cache

    @classmethod
    def of(cls, plan: Plan, folder: Path, *, run: bool) -> "Bench":
        """A bench whose cache is of its plan alone."""
        return cls(plan, Cache(folder / plan.key, run))

    @cached_property
    def base(self) -> SD15:
        """The undefended model."""
        return SD15.load(models.path())

    @cached_property
    def judge(self) -> ClipJudge:
        """What tells generated pictures apart; no fine-tune and no attack sees it."""
        return ClipJudge(models.path() / "judge_independent")

    @cached_property
    def concepts(self) -> dict[str, Concept]:
        """What is learned, by caption."""
        return {caption: concept(caption) for caption in self.plan.concepts}

    def cells(self) -> Iterator[tuple[str, int]]:
        """Every concept with every seed, seeds first."""
        for seed in self.plan.seeds:
            for caption in self.plan.concepts:
                yield caption, seed

    def cell(self, kind: Kind, condition: str, caption: str, seed: int) -> dict[str, float]:
        """Figures of one model, fine-tuned on the pictures of one condition."""
        key = f"{kind}-{condition}-{_slug(caption)}-{seed}"
        return self.cache.figures(key, lambda: self._measured(kind, condition, caption, seed))

    def _measured(self, kind: Kind, condition: str, caption: str, seed: int) -> dict[str, float]:
        family, learned = self._family(kind, seed), self.concepts[caption]
        pictures = self._pictures(family, condition, caption, seed)
        tuned = fine_tune(family, learned, pictures, self._trial(kind), self.judge, seed)
        gate = {"gate": mean_gate(family, pictures, learned.prompt)} if kind == "lord" else {}
        return tuned.as_dict() | gate

    def _family(self, kind: Kind, seed: int) -> SD15:
        match kind:
            case "lord":
                return self._defended.gated(seed)
            case "plain":
                return self._defended.plain(seed)
        return self.base

    def _trial(self, kind: Kind) -> Trial:
        trial = self.plan.trial
        if kind != "untuned":
            return trial
        return replace(trial, settings=replace(trial.settings, learning_rate=1e-12, steps=1))

    def _pictures(self, family: SD15, condition: str, caption: str, seed: int) -> Tensor:
        """What is fine-tuned on: clean, noised or poisoned."""
        learned = self.concepts[caption]
        match condition:
            case "clean":
                return learned.train
            case "noise":
                return noised(learned.train, self._attacker.threat.ball, seed)
        aim = AIMS[condition]
        through = family if aim.is_adaptive else self.base
        return self.cache.tensor(
            f"{condition}-{_slug(caption)}-{seed}",
            lambda: self._attacker.poisoned(through, learned, seed, aim),
        )

    @cached_property
    def _attacker(self) -> Attacker:
        return Attacker(self.plan, self.base, self.cache)

    @cached_property
    def _defended(self) -> Defended:
        return Defended(self.plan, self.base, self._attacker, self.cache)


@torch.no_grad()
def mean_gate(family: SD15, pictures: Tensor, prompt: str) -> float:
    """Mean gate on pictures at many timesteps, before any fine-tune."""
    latents = family.vae_encoder()(pictures, [0] * len(pictures))
    error = family.denoising_error([prompt] * len(pictures))
    rows, means = torch.arange(len(pictures)), []
    for draw in range(8):
        with watched(family.module("unet")) as gates:
            error(latents, rows, sample_seeds(draw, range(len(pictures)), "gate"))
        means.append(gates.mean().mean())
    return float(torch.stack(means).mean())


def _slug(caption: str) -> str:
    return caption.replace(" ", "_")
