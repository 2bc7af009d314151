"""Random tokens beside a prompt: what a token attack must beat to be one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from loricate.attacks._budgets import budget_of
from loricate.attacks._free_tokens import FreeTokens
from loricate.basics.spec import Count
from loricate.core.prompt_attack import PromptAttack
from loricate.core.prompt_problem import PromptProblem
from loricate.core.text_budgets import TokenBudget

__all__ = ["RandomTokens"]


@final
@dataclass(frozen=True, kw_only=True)
class RandomTokens(PromptAttack):
    """Random words of the vocabulary, as many as the budget allows.

    Args:
        n_restarts: Draws, of which the best for the objective is kept.
    """

    n_restarts: Count = 1

    def perturb(self, prompts: Sequence[str], problem: PromptProblem) -> list[str]:
        """Best of the draws."""
        draws, n = problem.random(0), len(problem.writable)
        free = FreeTokens.random(problem, budget_of(problem, TokenBudget, self), draws)
        if self.n_restarts > 1:
            free.offer(
                {
                    row: torch.randint(n, (self.n_restarts - 1, len(ids)), generator=draws[row])
                    for row, ids in free.ids.items()
                }
            )
        return free.leaders.texts
