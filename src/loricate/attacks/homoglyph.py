"""Edits that a reader does not see: look-alike letters and characters without width."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, final

from loricate.attacks._budgets import budget_of
from loricate.attacks._edits import Leaders, edited
from loricate.core.prompt_attack import PromptAttack
from loricate.core.prompt_problem import Candidate, PromptProblem
from loricate.core.text_budgets import CharBudget

__all__ = ["Homoglyph"]

_LOOK_ALIKES: Final = {
    "a": "а",  # Cyrillic, as are those below unless they say otherwise
    "c": "с",
    "d": "ԁ",
    "e": "е",
    "h": "һ",
    "i": "і",
    "j": "ј",
    "l": "ӏ",
    "n": "ո",  # Armenian
    "o": "оοօ",  # Cyrillic, Greek, Armenian
    "p": "р",
    "q": "ԛ",
    "s": "ѕ",
    "u": "ս",  # Armenian
    "v": "ν",  # Greek
    "w": "ԝ",
    "x": "х",
    "y": "у",
    " ": "\u00a0\u2009",  # without break, thin
    "-": "\u2010\u2011",
}
_WITHOUT_WIDTH: Final = "\u200b\u200c\u200d\u2060\ufeff\u00ad"


@final
@dataclass(frozen=True, kw_only=True)
class Homoglyph(PromptAttack):
    """Greedy edits among look-alike letters and characters without width.

    A text whose edit the tokenizer drops is not tried: some tokenizers lose U+200B, and what
    looks like a failed attack was then none.

    Args:
        without_width: Insert characters without width, too.

    Source: the look-alike triggers of Rickrolling [struppek2023]; U+200B is the trigger of
    BadT2I [zhai2023].
    """

    without_width: bool = True

    def perturb(self, prompts: Sequence[str], problem: PromptProblem) -> list[str]:
        """Best text over all rounds."""
        budget_of(problem, CharBudget, self)
        leaders = Leaders(problem)
        for _ in range(problem.budget.limit):
            trials = [
                Candidate(row, changed)
                for row, text in enumerate([*leaders.texts])
                for changed in self._unseen(text)
            ]
            admitted = [trial for trial in trials if problem.admits(trial)]
            leaders.offer([trial for trial in admitted if problem.reads_anew(trial)])
        return leaders.texts

    def _unseen(self, text: str) -> Iterator[str]:
        for at, letter in enumerate(text):
            for twin in _LOOK_ALIKES.get(letter.lower(), ""):
                yield edited(text, 2 * at + 1, twin)
        for gap in range(len(text) + 1) if self.without_width else ():
            for nothing in _WITHOUT_WIDTH:
                yield edited(text, 2 * gap, nothing)
