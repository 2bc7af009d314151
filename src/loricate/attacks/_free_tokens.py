"""Free tokens beside prompts, as indices into the tokens that can be written."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from loricate.attacks._edits import Leaders
from loricate.core.prompt_problem import Candidate, PromptProblem
from loricate.core.text_budgets import TokenBudget

__all__ = ["FreeTokens"]


@dataclass
class FreeTokens:
    """The current free tokens of every prompt that has room for any.

    Args:
        problem: What judges them.
        budget: How many, and where.
        ids: Tokens of each prompt, as indices into the writable ones.
    """

    problem: PromptProblem
    budget: TokenBudget
    ids: dict[int, Tensor]
    leaders: Leaders = field(init=False)

    def __post_init__(self) -> None:
        self.leaders = Leaders(self.problem)
        self._words = self.problem.text(self.problem.writable[:, None])
        texts = [self._candidate(row, ids) for row, ids in self.ids.items()]
        self._values = dict(zip(self.ids, self.leaders.offer(texts), strict=True))

    @classmethod
    def random(
        cls, problem: PromptProblem, budget: TokenBudget, draws: Sequence[torch.Generator]
    ) -> Self:
        """Random tokens, as many as budget and window allow."""
        n, ids = len(problem.writable), {}
        for row, prompt in enumerate(problem.prompts):
            room = min(budget.tokens, problem.max_tokens - problem.n_tokens(prompt))
            if room > 0:
                ids[row] = torch.randint(n, (room,), generator=draws[row])
        return cls(problem, budget, ids)

    @property
    def rows(self) -> list[int]:
        """Prompts with room for a free token."""
        return [*self.ids]

    def slopes(self) -> dict[int, Tensor]:
        """Slope of the objective towards each writable token at each free place, by prompt."""
        if not self.ids:
            return {}
        texts = [self._candidate(row, ids) for row, ids in self.ids.items()]
        _, gradient = self.problem.value_and_grad(texts)
        towards = gradient[..., self.problem.writable]
        return {
            row: each[self._first(row) :][: len(self.ids[row])]
            for row, each in zip(self.rows, towards, strict=True)
        }

    def offer(self, trials: dict[int, Tensor]) -> None:
        """Take the best trial of each prompt if it gains.

        Args:
            trials: Tokens to try, (batch, tokens), by prompt.
        """
        tried = [(row, ids) for row, batch in trials.items() for ids in batch]
        values = self.leaders.offer([self._candidate(row, ids) for row, ids in tried])
        for (row, ids), value in zip(tried, values, strict=True):
            if value > self._values[row]:
                self.ids[row], self._values[row] = ids, value

    def _candidate(self, row: int, ids: Tensor) -> Candidate:
        free = " ".join(self._words[index] for index in ids.tolist())
        return Candidate(row, self.budget.joined(free, self.problem.prompts[row]))

    def _first(self, row: int) -> int:
        """Place of the first free token; the start token is at 0."""
        behind = self.budget.where == "suffix"
        return 1 + (self.problem.n_tokens(self.problem.prompts[row]) if behind else 0)
