"""Character edits found by probing random places: cheap enough to train against."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from loricate.attacks._budgets import budget_of
from loricate.attacks._edits import ASCII, Greedy
from loricate.basics.spec import Count
from loricate.core.prompt_attack import PromptAttack
from loricate.core.prompt_problem import PromptProblem
from loricate.core.text_budgets import CharBudget

__all__ = ["CharSearch"]


@final
@dataclass(frozen=True, kw_only=True)
class CharSearch(PromptAttack):
    """One edit after the other, at the best of some random places, among random characters.

    Each round puts a space at ``n_samples`` random places, keeps the one that gains most, and
    tries ``n_samples`` random characters there, deletion among them.

    Args:
        n_samples: Places probed and characters tried in a round.

    Source: the attack inside LEAF [leaf2025], algorithm 1, with 50 samples. Deviates: the probes
    themselves may win, and a round that gains nothing leaves the text as it was.
    """

    n_samples: Count = 20

    def perturb(self, prompts: Sequence[str], problem: PromptProblem) -> list[str]:
        """Best text over all rounds."""
        budget_of(problem, CharBudget, self)
        return Greedy(self.n_samples, 1, self.n_samples, ASCII).climb(problem)
