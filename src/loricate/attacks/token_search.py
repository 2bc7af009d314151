"""Free tokens beside a prompt, guided by the gradient at the one-hot tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from loricate.attacks._budgets import budget_of
from loricate.attacks._free_tokens import FreeTokens
from loricate.basics.spec import Count
from loricate.core.prompt_attack import PromptAttack
from loricate.core.prompt_problem import PromptProblem
from loricate.core.text_budgets import TokenBudget

__all__ = ["TokenSearch"]


@final
@dataclass(frozen=True, kw_only=True)
class TokenSearch(PromptAttack):
    """Swap one token at a time for the best of a batch of promising ones.

    The slope of the objective towards every token at every free place ranks the swaps; a batch
    drawn from the ``top_k`` of each place is tried, and the best is kept if it gains. Only tokens
    that are read back as they are written are used, so the text found is the attack.

    Args:
        steps: Rounds.
        batch_size: Swaps tried in a round.
        top_k: Tokens of each place that a swap is drawn from.

    Source: GCG, Zou et al. 2023 [zou2023], algorithm 1; used on prompts by MMA-Diffusion
    [mma2024]. Deviates: a round never loses ground, and text that does not survive tokenization is
    never proposed.
    """

    steps: Count = 20
    batch_size: Count = 32
    top_k: Count = 64

    def perturb(self, prompts: Sequence[str], problem: PromptProblem) -> list[str]:
        """Best text over all rounds."""
        budget = budget_of(problem, TokenBudget, self)
        draws = problem.random(0)
        free = FreeTokens.random(problem, budget, draws)
        for _ in range(self.steps):
            slopes = free.slopes()
            free.offer({row: self._swaps(free.ids[row], slopes[row], draws[row]) for row in slopes})
        return free.leaders.texts

    def _swaps(self, ids: Tensor, slopes: Tensor, draw: torch.Generator) -> Tensor:
        """A batch of single swaps, (batch, tokens), each a draw of place and of token."""
        best = slopes.topk(min(self.top_k, slopes.shape[1]), dim=1).indices.cpu()
        places = torch.randint(len(ids), (self.batch_size,), generator=draw)
        ranks = torch.randint(best.shape[1], (self.batch_size,), generator=draw)
        swaps = ids.repeat(self.batch_size, 1)
        swaps[torch.arange(self.batch_size), places] = best[places, ranks]
        return swaps
