"""A low-rank update of a text encoder that reads typos as the frozen base reads the clean text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.seeds import derive_seed
from loricate.basics.spec import Count, Fraction01, Radius, Spec, Weight
from loricate.core.against import Against
from loricate.core.generators import sample_seeds
from loricate.core.prompt_attack import PromptAttack
from loricate.core.prompt_problem import PromptProblem
from loricate.core.prompt_surface import PromptSurface, require_prompts
from loricate.core.text_budgets import CharBudget
from loricate.core.training import Observer
from loricate.defenses._anchor import Anchor
from loricate.defenses._prompt_target import PromptTarget
from loricate.defenses._target import Reference, Trained, batch_rows, started
from loricate.defenses._training import Losses, Schedule, Training, identity
from loricate.lowrank.budget import Budget
from loricate.objectives.embedding_shift import EmbeddingShift
from loricate.surfaces.attach import Attached

__all__ = ["LeafLora"]

_TINY = 1e-12


@final
@dataclass(frozen=True, kw_only=True)
class LeafLora(Spec):
    """Low-rank update under which attacked prompts keep the base's hidden states of the clean ones.

    Minimizes ``drift(attacked)^2 + anchor * drift(clean)^2``, drift being the distance to the
    frozen output over the spread of prompts; the anchor is a multiplier that holds the clean drift
    at ``max_drift``. With ``random_characters`` inside it is its own control: equal steps, equal
    ranks, no attack.

    Args:
        inner: Attack of the training; differ from the one used to evaluate.
        edits: Its budget in characters.
        word_salads: Share of each batch that is one to three random words of the vocabulary
            instead of a prompt: calibration sets are small, and no labels are needed.
        rank_budget: Entries of the factors over entries of the weights they update.
        max_drift: Clean drift aimed at; 1 is as far as prompts spread.
        anchor: Anchor weight at the start.
        schedule: Steps and rates.

    Source: TextFARE of LEAF [leaf2025], equation 3. Deviates: low-rank, hidden states instead of
    the pooled vector, a constrained clean drift.
    """

    registry_kind: ClassVar[str | None] = "defenses"

    inner: PromptAttack
    edits: Count = 1
    word_salads: Fraction01 = 0.5
    rank_budget: Fraction01 = 0.25
    max_drift: Radius = 0.2
    anchor: Weight = 1.0
    schedule: Schedule = field(
        default_factory=lambda: Schedule(steps=300, batch_size=32, learning_rate=3e-3)
    )

    def train(
        self,
        target: PromptTarget,
        prompts: Sequence[str],
        *,
        seed: int,
        observe: Observer,
        checkpoint: Path | None = None,
        phase: str = "train",
    ) -> Trained:
        """Train an adapter onto a text encoder.

        Args:
            target: What is protected and where the adapter goes. Its weights are never written.
            prompts: Clean prompts to learn from.
            seed: Seed of every draw.
            observe: Told about every step.
            checkpoint: File from which a killed run continues.
            phase: Name given to the observer.

        Returns:
            The updates, attached, and the course of the training.

        Raises:
            ConfigError: An empty prompt, one the surface would cut off, or too few of them.
            NumericalError: The loss became NaN or infinite.
        """
        require_prompts(prompts, target.surface)
        budget = Budget(fraction=float(self.rank_budget), min_rank=1)
        with started(target.as_target(), (budget, budget), seed=seed) as (attached, ranks, budgets):
            training = Training(
                attached=attached,
                schedule=self.schedule,
                budgets=budgets,
                losses=_Step.of(self, target.surface, attached, prompts, seed),
                checkpoint=checkpoint,
                identity=identity(self, seed, _as_tensor(prompts), ranks, attached),
                phase=phase,
            )
            training.run(observe)
        return Trained(attached, training.log(ranks))


@dataclass(frozen=True)
class _Step:
    """Losses of one step, a pure function of its number and the multiplier."""

    spec: LeafLora
    surface: PromptSurface
    attached: Attached
    prompts: tuple[str, ...]
    words: tuple[str, ...]
    reference: Reference
    seed: int

    @classmethod
    def of(
        cls,
        spec: LeafLora,
        surface: PromptSurface,
        attached: Attached,
        prompts: Sequence[str],
        seed: int,
    ) -> "_Step":
        known = tuple(dict.fromkeys(prompts))
        words = tuple(sorted(surface.words)) if spec.word_salads else ()
        with torch.no_grad(), attached.off():
            outputs = surface(known, [0] * len(known))
        energy = float((outputs - outputs.mean(0)).flatten(1).square().sum(1).mean())
        if energy <= _TINY:
            raise ConfigError(
                ConfigProblem(key="prompts", expected="at least two different ones", got=known)
            )
        return cls(spec, surface, attached, known, words, Reference(energy), seed)

    def __call__(self, step: int, state: dict[str, float]) -> Losses:
        texts = self._texts(step)
        with torch.no_grad(), self.attached.off():
            base = self.surface(texts, [0] * len(texts))
        attacked = self._attacked(texts, base, step)
        outputs = self.surface([*texts, *attacked], [0] * 2 * len(texts))
        clean, robust = outputs.chunk(2)
        drift = self.reference.drift(clean, base).mean()
        robust_drift = self.reference.drift(robust, base).mean()
        aim = Anchor(float(self.spec.max_drift), float(self.spec.anchor))
        anchor = aim.weight(state, float(drift.detach()))
        return {
            "total": (robust_drift + anchor * drift) / (1 + anchor),
            "robust": (robust_drift + _TINY).sqrt(),
            "drift": (drift + _TINY).sqrt(),
            "anchor": torch.tensor(anchor),
        }

    def _texts(self, step: int) -> list[str]:
        """Prompts, some of them replaced by words in a row."""
        rows = batch_rows(
            len(self.prompts), self.spec.schedule.batch_size, seed=self.seed, step=step
        )
        texts = [self.prompts[row] for row in rows.tolist()]
        draw = torch.Generator().manual_seed(derive_seed(self.seed, "salad", step))
        for at in range(int(self.spec.word_salads * len(texts)) if self.words else 0):
            count = int(torch.randint(1, 4, (), generator=draw))
            picks = torch.randint(len(self.words), (count,), generator=draw).tolist()
            salad = " ".join(self.words[pick] for pick in picks)
            if self.surface.n_tokens(salad) <= self.surface.max_tokens:
                texts[at] = salad
        return texts

    def _attacked(self, texts: Sequence[str], base: Tensor, step: int) -> list[str]:
        seeds = sample_seeds(self.seed, range(len(texts)), "inner", step)
        away = Against(objective=EmbeddingShift(), given=base)
        budget = CharBudget(edits=self.spec.edits)
        problem = PromptProblem(self.surface, away, budget, texts, seeds)
        return [*self.spec.inner.perturb(texts, problem)]


def _as_tensor(prompts: Sequence[str]) -> Tensor:
    text = "\0".join(prompts).encode()
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
