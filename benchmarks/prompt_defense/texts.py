"""Attacks that write text: typos, look-alikes and free words, each beside chance."""

from dataclasses import dataclass, replace

import numpy as np

from loricate.attacks.char_search import CharSearch
from loricate.attacks.charmer import Charmer
from loricate.attacks.homoglyph import Homoglyph
from loricate.attacks.random_characters import RandomCharacters
from loricate.attacks.random_tokens import RandomTokens
from loricate.attacks.token_search import TokenSearch
from loricate.basics.spec import to_toml
from loricate.core.family import EditSettings
from loricate.core.prompt_attack import PromptAttack
from loricate.core.text_budgets import CharBudget, TokenBudget
from loricate.evaluation.prompt_aggregates import aggregate_prompts
from loricate.evaluation.prompts import PromptEvaluation, PromptRow, PromptTrial
from loricate.evaluation.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    mcnemar_exact,
)
from loricate.recipes._models import judge_of
from loricate.records.names import BASE, STRONGEST, Metrics
from loricate.records.schema import Aggregate
from prompt_defense.figures import numbers
from prompt_defense.subjects import CONTROL, LEAF, Subjects

JUDGES = ("judge", "judge_independent")
NATURAL = 0.95
"""A picture is broken when it fits worse than this share of pictures of another seed."""

GRADIENT = 3
"""Queries that a gradient is worth: there, and twice that back."""


def _typos(attack: PromptAttack, edits: int, *, draws: bool = False) -> PromptTrial:
    return PromptTrial(attack=attack, budget=CharBudget(edits=edits), draws=draws)


def _words(attack: PromptAttack) -> PromptTrial:
    return PromptTrial(attack=attack, budget=TokenBudget(tokens=2))


SEARCH = TokenSearch(steps=8, batch_size=24)

TRIALS = {
    "random typo, k = 1": _typos(RandomCharacters(), 1),
    "charmer, 5 places, k = 1": _typos(Charmer(n_places=5), 1, draws=True),
    "best of 500 random typos, k = 1": _typos(RandomCharacters(n_restarts=500), 1),
    "homoglyph, k = 1": _typos(Homoglyph(), 1),
    "char_search, 12 samples, k = 2": _typos(CharSearch(n_samples=12), 2, draws=True),
    "best of 48 random typos, k = 2": _typos(RandomCharacters(n_restarts=48), 2),
    "char_search, 12 samples, k = 4": _typos(CharSearch(n_samples=12), 4),
    "best of 96 random typos, k = 4": _typos(RandomCharacters(n_restarts=96), 4),
    "token_search, 2 words": _words(SEARCH),
    "best of 217 random words, 2 words": _words(
        RandomTokens(n_restarts=1 + SEARCH.steps * (SEARCH.batch_size + GRADIENT))
    ),
}
"""What every encoder faces; where a search stands, chance has its passes or more below it."""

VERSUS_CHANCE = {
    "charmer, 5 places, k = 1": "best of 500 random typos, k = 1",
    "char_search, 12 samples, k = 2": "best of 48 random typos, k = 2",
    "char_search, 12 samples, k = 4": "best of 96 random typos, k = 4",
    "token_search, 2 words": "best of 217 random words, 2 words",
}


@dataclass(frozen=True)
class Texts:
    """Rows of all encoders under all trials.

    Args:
        rows: With the draws of one seed.
        other: Clean pictures of the base with those of another.
        subjects: Names of the encoders.
    """

    rows: list[PromptRow]
    other: list[PromptRow]
    subjects: tuple[str, ...]

    @classmethod
    def of(cls, subjects: Subjects) -> "Texts":
        """All rows, from their file as far as they are there."""
        evaluation = PromptEvaluation(
            base=subjects.base,
            prompts=subjects.prompts,
            judges={j: judge_of(subjects.model, subjects.model / j, subjects.base) for j in JUDGES},
            settings=EditSettings(num_inference_steps=8, guidance=3.0),
            seed=0,
            path=subjects.folder / "rows.jsonl",
        )
        rows = evaluation.run(subjects.families, [*TRIALS.values()])
        other = replace(evaluation, seed=1).run({BASE: subjects.base}, ())
        return cls(rows, other, tuple(subjects.families))

    def column(self, subject: str, name: str | None, field: str) -> list[float]:
        """A number of every prompt under a trial, in the order of the prompts."""
        rows = sorted(self._of(subject, name), key=lambda row: row.sample)
        return [float(getattr(row, field)) for row in rows]

    def shifts(self) -> list[dict]:
        """How far attacked prompts move, and by what factor less than at the base."""
        table = []
        for name in TRIALS:
            found = self._aggregates(name, JUDGES[0])
            base = self.column(BASE, name, "shift")
            for subject in self.subjects:
                column = self.column(subject, name, "shift")
                queries = self.column(subject, name, "queries")
                table.append(
                    {
                        "attack": name,
                        "subject": subject,
                        "shift": numbers(found[subject, Metrics.EMBEDDING_SHIFT]),
                        "factor": numbers(bootstrap_ratio(base, column, seed=0)),
                        "queries": [float(np.mean(queries)), max(queries)],
                    }
                )
        return table

    def searches(self) -> list[dict]:
        """How much farther each search goes than chance with its passes or more, paired."""
        return [
            {
                "attack": search,
                "subject": subject,
                "beyond_chance": numbers(
                    bootstrap_difference(*self._pair(subject, search, chance), seed=0)
                ),
                "at_least": float(np.mean(np.greater_equal(*self._pair(subject, search, chance)))),
            }
            for search, chance in VERSUS_CHANCE.items()
            for subject in self.subjects
        ]

    def inside(self) -> list[dict]:
        """How much less far than with the control prompts move with LEAF, paired."""
        return [
            {
                "attack": name,
                "below_control": numbers(
                    bootstrap_difference(
                        self.column(CONTROL, name, "shift"),
                        self.column(LEAF, name, "shift"),
                        seed=0,
                    )
                ),
            }
            for name in TRIALS
        ]

    def costs(self) -> list[dict]:
        """What the adapters change where nothing attacks."""
        return [
            {
                "subject": subject,
                "clean_cosine": numbers(
                    bootstrap_mean(self.column(subject, None, "clean_cosine"), seed=0)
                ),
                "clean_shift": float(np.mean(self.column(subject, None, "clean_shift"))),
            }
            for subject in self.subjects
        ]

    def alignments(self) -> list[dict]:
        """How well pictures drawn from attacked prompts fit the clean ones."""
        drawn = [None, *(name for name, trial in TRIALS.items() if trial.draws)]
        return [
            self._alignment(judge, name, subject)
            for judge in JUDGES
            for name in drawn
            for subject in self.subjects
        ]

    def _alignment(self, judge: str, name: str | None, subject: str) -> dict:
        found = self._aggregates(name, judge)
        clean = self._agreement(judge, BASE, None)
        base, control, own = (
            self._agreement(judge, each, name) for each in (BASE, CONTROL, subject)
        )
        broken = [clean - each > self._margin(judge) for each in (base, own)]
        return {
            "judge": judge,
            "attack": name or "no attack",
            "subject": subject,
            "alignment": numbers(found[subject, Metrics.GENERATION_ALIGNMENT]),
            "gain": numbers(bootstrap_difference(own, base, seed=0)),
            "over_control": numbers(bootstrap_difference(own, control, seed=0)),
            "broken": int(broken[1].sum()),
            "p": mcnemar_exact(*broken),
        }

    def _aggregates(self, name: str | None, judge: str) -> dict[tuple[str, str], Aggregate]:
        """Aggregates of one trial alone: two trials of one attack are one condition of a record."""
        wanted = {"", _toml(name)}
        rows = [row for row in self.rows if row.trial in wanted]
        found = aggregate_prompts(rows, judge=judge, margin=self._margin(judge), seed=0)
        return {
            (a.subject, a.metric): a
            for a in found
            if a.attack != STRONGEST and (a.epsilon == 0) == (name is None)
        }

    def _pair(self, subject: str, *names: str) -> list[list[float]]:
        return [self.column(subject, name, "shift") for name in names]

    def _agreement(self, judge: str, subject: str, name: str | None) -> np.ndarray:
        rows = sorted(self._of(subject, name), key=lambda row: row.sample)
        return np.array([row.alignment[judge] for row in rows])

    def _margin(self, judge: str) -> float:
        again = [row.alignment[judge] for row in sorted(self.other, key=lambda row: row.sample)]
        return float(np.quantile(self._agreement(judge, BASE, None) - np.array(again), NATURAL))

    def _of(self, subject: str, name: str | None) -> list[PromptRow]:
        words = _toml(name)
        return [row for row in self.rows if (row.subject, row.trial) == (subject, words)]


def _toml(name: str | None) -> str:
    return to_toml(TRIALS[name]) if name else ""
