"""How far a prompt may be changed."""

import math
import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import Final, Literal, Protocol, final

from loricate.basics.spec import Count, Spec

__all__ = ["CharBudget", "Lexicon", "TextBudget", "TokenBudget", "edit_distance"]

_WORD: Final = re.compile(r"[^\W\d_]+")


class Lexicon(Protocol):
    """What a budget has to know about the tokenizer."""

    @property
    def words(self) -> frozenset[str]:
        """Whole words of the vocabulary, in lower case."""

    def n_tokens(self, text: str) -> int:
        """Tokens of a text as the model gets it, start and end not counted."""


@dataclass(frozen=True, kw_only=True)
class TextBudget(Spec):
    """All texts within some number of changes of a clean one."""

    @property
    @abstractmethod
    def limit(self) -> int:
        """Most changes allowed."""

    @property
    @abstractmethod
    def unit(self) -> str:
        """What is counted, in the plural."""

    @property
    def kind(self) -> str:
        """What tells budgets of one size apart in a table: the unit, unless there is more."""
        return self.unit

    @abstractmethod
    def size(self, clean: str, changed: str, lexicon: Lexicon) -> float:
        """Changes between two texts; infinite where no number of them is allowed."""


@final
@dataclass(frozen=True, kw_only=True)
class CharBudget(TextBudget):
    """At most ``edits`` characters inserted, deleted or replaced.

    Args:
        edits: Largest Levenshtein distance, over Unicode code points as given.
        keeps_words: Refuse a text with a word that the clean one lacks and the vocabulary knows:
            "cat" may become "cst" and not "hat", which would ask for something else.
        unit: Tells budgets apart in a table.

    Source: the constraint of LEAF [leaf2025], section 3. Deviates: the dictionary is the model's
    own vocabulary, so nothing is downloaded; byte-pair vocabularies hold word endings too, so a
    few texts are refused that a dictionary would let pass.
    """

    edits: Count = 1
    keeps_words: bool = False
    unit: Literal["characters"] = "characters"

    @property
    def limit(self) -> int:
        """``edits``."""
        return self.edits

    @property
    def kind(self) -> str:
        """Characters, and whether words are kept."""
        return "characters, words kept" if self.keeps_words else self.unit

    def size(self, clean: str, changed: str, lexicon: Lexicon) -> float:
        """Levenshtein distance; infinite for a new word where words are kept."""
        new = _words(changed) - _words(clean) if self.keeps_words else set()
        return math.inf if new & lexicon.words else edit_distance(clean, changed)


@final
@dataclass(frozen=True, kw_only=True)
class TokenBudget(TextBudget):
    """At most ``tokens`` free tokens beside the untouched prompt.

    Args:
        tokens: Free tokens, counted after the whole text was tokenized again.
        where: In front of the prompt or behind it.
        unit: Tells budgets apart in a table.

    Source: the prefix of UnlearnDiffAtk [unlearndiffatk2024], section 4.
    """

    tokens: Count = 5
    where: Literal["prefix", "suffix"] = "prefix"
    unit: Literal["tokens"] = "tokens"

    @property
    def limit(self) -> int:
        """``tokens``."""
        return self.tokens

    def joined(self, free: str, clean: str) -> str:
        """The prompt with a free text beside it."""
        return f"{free} {clean}" if self.where == "prefix" else f"{clean} {free}"

    def size(self, clean: str, changed: str, lexicon: Lexicon) -> float:
        """Tokens added; infinite where the prompt does not stand whole where it must."""
        if changed == clean:
            return 0
        stands = changed.endswith if self.where == "prefix" else changed.startswith
        if not stands(self.joined("", clean)):
            return math.inf
        return max(0, lexicon.n_tokens(changed) - lexicon.n_tokens(clean))


def edit_distance(first: str, second: str) -> int:
    """Fewest characters inserted, deleted or replaced between two texts.

    Args:
        first: One text.
        second: The other.

    Returns:
        The Levenshtein distance over code points.
    """
    first, second = _trimmed(first, second)
    if not first or not second:
        return len(first) + len(second)
    above = list(range(len(second) + 1))
    for row, left in enumerate(first, start=1):
        here = [row]
        for column, right in enumerate(second, start=1):
            changed = above[column - 1] + (left != right)
            here.append(min(changed, above[column] + 1, here[-1] + 1))
        above = here
    return above[-1]


def _trimmed(first: str, second: str) -> tuple[str, str]:
    """Both texts without the start and the end they share: attacks change a few characters."""
    start, shortest = 0, min(len(first), len(second))
    while start < shortest and first[start] == second[start]:
        start += 1
    first, second = first[start:], second[start:]
    end, shortest = 0, min(len(first), len(second))
    while end < shortest and first[-1 - end] == second[-1 - end]:
        end += 1
    return first[: len(first) - end], second[: len(second) - end]


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
