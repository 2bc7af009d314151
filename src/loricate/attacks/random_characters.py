"""Random typos of the same budget: what a character attack must beat to be one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from loricate.attacks._budgets import budget_of
from loricate.attacks._edits import ASCII, DELETION, Leaders, edited, n_places
from loricate.basics.spec import Count
from loricate.core.prompt_attack import PromptAttack
from loricate.core.prompt_problem import Candidate, PromptProblem
from loricate.core.text_budgets import CharBudget

__all__ = ["RandomCharacters"]


@final
@dataclass(frozen=True, kw_only=True)
class RandomCharacters(PromptAttack):
    """As many random edits as the budget allows, at once.

    Args:
        n_restarts: Draws, of which the best for the objective is kept; 1 is a plain typo.
    """

    n_restarts: Count = 1

    def perturb(self, prompts: Sequence[str], problem: PromptProblem) -> list[str]:
        """Best of the draws."""
        budget_of(problem, CharBudget, self)
        leaders = Leaders(problem)
        draws = problem.random(0)
        trials = [
            Candidate(row, _typed(text, problem.budget.limit, draws[row]))
            for row, text in enumerate(prompts)
            for _ in range(self.n_restarts)
        ]
        leaders.offer([trial for trial in trials if problem.admits(trial)])
        return leaders.texts


def _typed(text: str, edits: int, draw: torch.Generator) -> str:
    alphabet = [DELETION, *ASCII]
    for _ in range(edits):
        place = _below(n_places(text), draw)
        text = edited(text, place, alphabet[_below(len(alphabet), draw)])
    return text


def _below(n: int, draw: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=draw))
