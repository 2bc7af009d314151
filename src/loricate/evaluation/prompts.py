"""Prompt attacks on several text encoders, prompt by prompt: what moved, and what is drawn."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from loricate.basics.spec import Spec, to_toml
from loricate.core.against import Against
from loricate.core.family import EditSettings, Family
from loricate.core.generators import sample_seeds
from loricate.core.prompt_attack import PromptAttack
from loricate.core.text_budgets import CharBudget, TokenBudget
from loricate.evaluation.subjects import FeatureSpace
from loricate.integrity.digest import digest
from loricate.metrics.embedding_drift import EmbeddingDrift
from loricate.objectives.embedding_shift import EmbeddingShift

__all__ = ["PromptEvaluation", "PromptRow", "PromptTrial"]

_CHUNK: Final = 20


@dataclass(frozen=True, kw_only=True)
class PromptTrial(Spec):
    """One attack with one budget.

    Args:
        attack: What searches.
        budget: How far it may go.
        draws: Whether pictures are drawn from what it found.
    """

    attack: PromptAttack
    budget: CharBudget | TokenBudget
    draws: bool = False


@dataclass(frozen=True)
class PromptRow:
    """One prompt of one subject under one attack.

    Args:
        subject: Which text encoder.
        trial: The trial, as TOML; empty where nothing attacked.
        sample: Index of the prompt.
        prompt: The clean prompt.
        found: What the attack made of it.
        shift: Distance of the attacked states from the base's clean ones, in spreads.
        own_shift: The same from the subject's own clean ones.
        clean_shift: The same between the two clean ones: what the defense costs.
        clean_cosine: Cosine between the two clean ones.
        queries: Texts the attack tried.
        alignment: Agreement of the picture drawn with the clean prompt, by judge.
    """

    subject: str
    trial: str
    sample: int
    prompt: str
    found: str
    shift: float
    own_shift: float
    clean_shift: float
    clean_cosine: float
    queries: int
    alignment: Mapping[str, float]


@dataclass(frozen=True)
class PromptEvaluation:
    """All subjects under all trials; a killed run continues from its rows.

    The attack raises the distance between the attacked states of the subject and the clean states
    of the base, which are what the denoiser was trained on. Pictures are drawn with noise the
    attack never saw, the same for every subject.

    Args:
        base: The undefended pipeline.
        prompts: Clean prompts, held out from every training.
        judges: What tells how well pictures fit prompts, by name.
        settings: How pictures are drawn.
        seed: Seed of every draw.
        path: File of rows; what it holds already of the same weights and draws is not done again.
    """

    base: Family
    prompts: tuple[str, ...]
    judges: Mapping[str, FeatureSpace]
    settings: EditSettings
    seed: int
    path: Path

    @cached_property
    def spread(self) -> float:
        """How far the base's states of the clean prompts spread: the unit of all shifts."""
        known = [*dict.fromkeys(self.prompts)]
        with torch.no_grad():
            return EmbeddingDrift.spread_of(self.base.text_encoder()(known, [0] * len(known)))

    def run(self, subjects: Mapping[str, Family], trials: Sequence[PromptTrial]) -> list[PromptRow]:
        """Rows of every subject without attack and under every trial.

        Args:
            subjects: Pipelines to attack, by name.
            trials: Attacks.

        Returns:
            One row a subject, trial and prompt.
        """
        known = self._read()
        rows = []
        weights = {
            name: digest(family.module("text_encoder").state_dict())
            for name, family in subjects.items()
        }
        for trial in (None, *trials):
            for name, family in subjects.items():
                for samples in self._chunks():
                    job = _Job(self, name, family, trial, samples)
                    key = self._key(weights[name], job)
                    if key not in known:
                        known[key] = job.rows()
                        self._append(key, known[key])
                    rows += known[key]
        return rows

    def _chunks(self) -> Iterator[list[int]]:
        samples = range(len(self.prompts))
        return (list(samples[i : i + _CHUNK]) for i in samples[::_CHUNK])

    def _key(self, weights: str, job: "_Job") -> str:
        """Digest of all that decides the rows of a job."""
        clean = [self.prompts[sample] for sample in job.samples]
        words = [weights, job.name, job.words, job.samples, clean, self.prompts, self.seed]
        settings = [to_toml(self.settings), sorted(self.judges)]
        return hashlib.sha256(json.dumps([words, settings]).encode()).hexdigest()

    def _read(self) -> dict[str, list[PromptRow]]:
        if not self.path.exists():
            return {}
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # it was being written when the run was stopped
            self.path.write_text("".join(whole), encoding="utf-8")
        jobs = map(json.loads, whole)
        return {job["key"]: [PromptRow(**row) for row in job["rows"]] for job in jobs}

    def _append(self, key: str, rows: Sequence[PromptRow]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": key, "rows": [asdict(row) for row in rows]})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass(frozen=True)
class _Job:
    """Some prompts of one subject under one trial."""

    run: PromptEvaluation
    name: str
    family: Family
    trial: PromptTrial | None
    samples: list[int]

    @property
    def words(self) -> str:
        return to_toml(self.trial) if self.trial else ""

    @property
    def clean(self) -> list[str]:
        return [self.run.prompts[sample] for sample in self.samples]

    @torch.no_grad()
    def rows(self) -> list[PromptRow]:
        surface = self.family.text_encoder()
        wanted = self.run.base.text_encoder()(self.clean, self.samples)
        found, queries = self._found(wanted)
        states, own = surface(found, self.samples), surface(self.clean, self.samples)
        drift = EmbeddingDrift(spread=self.run.spread)
        shift, own_shift, clean_shift = (
            drift(*pair).tolist() for pair in ((states, wanted), (states, own), (own, wanted))
        )
        cosine = cosine_similarity(own.flatten(1), wanted.flatten(1)).tolist()
        alignment = self._alignment(found)
        return [
            PromptRow(
                subject=self.name,
                trial=self.words,
                sample=sample,
                prompt=self.clean[at],
                found=found[at],
                shift=shift[at],
                own_shift=own_shift[at],
                clean_shift=clean_shift[at],
                clean_cosine=cosine[at],
                queries=queries[at],
                alignment={name: values[at] for name, values in alignment.items()},
            )
            for at, sample in enumerate(self.samples)
        ]

    def _found(self, wanted: Tensor) -> tuple[Sequence[str], Sequence[int]]:
        if self.trial is None:
            return self.clean, [0] * len(self.clean)
        seeds = sample_seeds(self.run.seed, self.samples, "prompt-attack")
        away = Against(objective=EmbeddingShift(), given=wanted)
        surface = self.family.text_encoder()
        result = self.trial.attack(surface, away, self.trial.budget, self.clean, seeds=seeds)
        return result.prompts, result.queries

    def _alignment(self, found: Sequence[str]) -> dict[str, list[float]]:
        if self.trial and not self.trial.draws:
            return {}
        seeds = sample_seeds(self.run.seed, self.samples, "scored-picture")
        pictures = self.family.generation(self.run.settings)(found, seeds)
        judges = self.run.judges.items()
        return {name: judge.alignment(pictures, self.clean).tolist() for name, judge in judges}
