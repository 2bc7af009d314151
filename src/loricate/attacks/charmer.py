"""Character edits found by trying every place: what defenses are evaluated with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from loricate.attacks._budgets import budget_of
from loricate.attacks._edits import ASCII, Greedy
from loricate.basics.spec import Count
from loricate.core.prompt_attack import PromptAttack
from loricate.core.prompt_problem import PromptProblem
from loricate.core.text_budgets import CharBudget

__all__ = ["Charmer"]

_BEYOND_ASCII: Final = "éßøñжѣλ中の\u0301\u200b☃"
"""Scripts, a combining accent, nothing visible, a picture: several byte pairs each."""


@final
@dataclass(frozen=True, kw_only=True)
class Charmer(PromptAttack):
    """One edit after the other: all places probed, then all characters at the best of them.

    Args:
        n_places: Places at which every character is tried; the paper's experiments use 20.
        beyond_ascii: Try a dozen characters of other scripts as well.

    Source: Charmer, Abad Rocamora et al. 2024 [charmer2024], algorithms 1 and 2. Deviates: an
    alphabet of printable ASCII and a sample of other scripts, instead of all characters of the
    data set.
    """

    n_places: Count = 20
    beyond_ascii: bool = True

    def perturb(self, prompts: Sequence[str], problem: PromptProblem) -> list[str]:
        """Best text over all rounds."""
        budget_of(problem, CharBudget, self)
        alphabet = ASCII + (_BEYOND_ASCII if self.beyond_ascii else "")
        return Greedy(None, self.n_places, None, alphabet).climb(problem)
