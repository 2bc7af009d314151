import math

import pytest

pytest.importorskip("torch")

from loricate.basics.errors import ConfigError
from loricate.basics.spec import from_table, to_table
from loricate.core.text_budgets import CharBudget, TokenBudget, edit_distance
from loricate.testing.prompts import LetterSurface

_LEXICON = LetterSurface()


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("kitten", "sitting", 3),
        ("flaw", "lawn", 2),
        ("a cat", "a hat", 1),
        ("abc", "acb", 2),
        ("café", "cafe", 1),
        ("a\u200bb", "ab", 1),
        ("aaaa", "aa", 2),
    ],
)
def test_edit_distance_of_known_pairs(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == distance


def test_characters_are_counted_on_the_text_as_given() -> None:
    assert CharBudget(edits=1).size("a cat", "A cat", _LEXICON) == 1


@pytest.mark.parametrize(
    ("changed", "size"), [("a hat", math.inf), ("a cst", 1), ("a ca t", 1), ("hat", math.inf)]
)
def test_words_are_kept(changed: str, size: float) -> None:
    assert CharBudget(edits=9, keeps_words=True).size("a cat", changed, _LEXICON) == size


def test_without_the_constraint_a_new_word_is_an_edit_like_any() -> None:
    assert CharBudget(edits=1).size("a cat", "a hat", _LEXICON) == 1


@pytest.mark.parametrize(
    ("where", "changed", "size"),
    [
        ("prefix", "a cat", 0),
        ("prefix", "x y a cat", 2),
        ("prefix", "xy a cat", 2),
        ("prefix", "a cat x", math.inf),
        ("prefix", "x a cut", math.inf),
        ("prefix", "xa cat", math.inf),
        ("suffix", "a cat x", 1),
        ("suffix", "x a cat", math.inf),
        ("suffix", "a cats", math.inf),
    ],
)
def test_tokens_are_counted_beside_the_untouched_prompt(where, changed, size) -> None:
    budget = TokenBudget(tokens=2, where=where)
    assert budget.size("a cat", changed, _LEXICON) == size


@pytest.mark.parametrize("edits", [0, -1, 1.5, "8/255"])
def test_a_budget_in_the_wrong_unit_is_refused(edits) -> None:
    with pytest.raises(ConfigError, match="edits"):
        CharBudget(edits=edits)


@pytest.mark.parametrize("budget", [CharBudget(edits=2), TokenBudget(tokens=3, where="suffix")])
def test_budgets_survive_tables(budget) -> None:
    assert from_table(type(budget), to_table(budget)) == budget
