"""Prompt attacks on several text encoders, prompt by prompt: what moved, and what is drawn."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from loricate.basics.files import write_atomically
from loricate.basics.spec import Spec, to_toml
from loricate.core.against import Against
from loricate.core.family import Component, EditSettings, Family
from loricate.core.generators import sample_seeds
from loricate.core.prompt_attack import PromptAttack
from loricate.core.text_budgets import CharBudget, TokenBudget
from loricate.evaluation.subjects import FeatureSpace
from loricate.integrity.digest import digest
from loricate.metrics.embedding_drift import EmbeddingDrift
from loricate.objectives.embedding_shift import EmbeddingShift
from loricate.surfaces.gated import whole_state

__all__ = ["PromptEvaluation", "PromptRow", "PromptTrial"]

_CHUNK: Final = 20

_Found: TypeAlias = tuple[list[str], list[int]]
"""Texts an attack found, and how many it tried for each."""


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
        known, searched = self._read()
        rows = []
        for trial in (None, *trials):
            for name, family in subjects.items():
                weights = _Weights.of(family)
                for samples in self._chunks():
                    job = _Job(self, name, family, trial, samples)
                    search, key = self._key(weights.text, job), self._key(weights.whole, job, name)
                    if key not in known:
                        # The same text encoder falls for the same texts, whatever draws them.
                        found = searched.get(search) or job.search()
                        known[key], searched[search] = job.rows(*found), found
                        self._append(key, search, known[key])
                    rows += known[key]
        return rows

    def _chunks(self) -> Iterator[list[int]]:
        samples = range(len(self.prompts))
        return (list(samples[i : i + _CHUNK]) for i in samples[::_CHUNK])

    def _key(self, weights: str, job: "_Job", name: str = "") -> str:
        """Digest of all that decides what a job finds, or its rows."""
        clean = [self.prompts[sample] for sample in job.samples]
        words = [weights, self._base, name, job.words, job.samples, clean, self.prompts, self.seed]
        settings = [to_toml(self.settings), sorted(self.judges)]
        return hashlib.sha256(json.dumps([words, settings]).encode()).hexdigest()

    @cached_property
    def _base(self) -> str:
        return _Weights.of(self.base).text

    def _read(self) -> tuple[dict[str, list[PromptRow]], dict[str, _Found]]:
        if not self.path.exists():
            return {}, {}
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # it was being written when the run was stopped
            write_atomically(self.path, "".join(whole).encode())
        jobs = [json.loads(line) for line in whole]
        rows = {job["key"]: [PromptRow(**row) for row in job["rows"]] for job in jobs}
        found = {job["search"]: _found_in(rows[job["key"]]) for job in jobs}
        return rows, found

    def _append(self, key: str, search: str, rows: Sequence[PromptRow]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        job = {"key": key, "search": search, "rows": [asdict(row) for row in rows]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(job) + "\n")


@dataclass(frozen=True)
class _Weights:
    """What decides which texts an attack finds, and what is drawn from them."""

    text: str
    whole: str

    @classmethod
    def of(cls, family: Family) -> "_Weights":
        parts = [digest(whole_state(family.module(part))) for part in get_args(Component)]
        whole = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return cls(digest(whole_state(family.module("text_encoder"))), whole)


def _found_in(rows: Sequence[PromptRow]) -> _Found:
    return [row.found for row in rows], [row.queries for row in rows]


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
    def rows(self, found: Sequence[str], queries: Sequence[int]) -> list[PromptRow]:
        surface, wanted = self.family.text_encoder(), self._wanted
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

    @property
    def _wanted(self) -> Tensor:
        return self.run.base.text_encoder()(self.clean, self.samples)

    @torch.no_grad()
    def search(self) -> _Found:
        """What the attack makes of the prompts, and how many texts it tried."""
        if self.trial is None:
            return self.clean, [0] * len(self.clean)
        seeds = sample_seeds(self.run.seed, self.samples, "prompt-attack")
        away = Against(objective=EmbeddingShift(), given=self._wanted)
        surface = self.family.text_encoder()
        result = self.trial.attack(surface, away, self.trial.budget, self.clean, seeds=seeds)
        return list(result.prompts), list(result.queries)

    def _alignment(self, found: Sequence[str]) -> dict[str, list[float]]:
        if self.trial and not self.trial.draws:
            return {}
        seeds = sample_seeds(self.run.seed, self.samples, "scored-picture")
        pictures = self.family.generation(self.run.settings)(found, seeds)
        judges = self.run.judges.items()
        return {name: judge.alignment(pictures, self.clean).tolist() for name, judge in judges}
