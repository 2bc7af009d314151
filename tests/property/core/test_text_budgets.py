"""Laws of the edit distance, against the plain recursion."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from loricate.attacks._edits import DELETION, edited, n_places
from loricate.core.text_budgets import edit_distance

_TEXTS = st.text(alphabet="abc \u200b", max_size=7)


def _by_recursion(first: str, second: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        changed = distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(changed, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(first), len(second))


@given(_TEXTS, _TEXTS)
def test_it_is_the_recursion(first: str, second: str) -> None:
    assert edit_distance(first, second) == _by_recursion(first, second)


@given(_TEXTS, _TEXTS, _TEXTS)
def test_it_is_a_distance(a: str, b: str, c: str) -> None:
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)
    assert (edit_distance(a, b) == 0) == (a == b)


@given(_TEXTS, st.data())
def test_one_edit_is_at_most_one_away(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, n_places(text) - 1))
    character = data.draw(st.sampled_from([DELETION, "a", "é"]))
    assert edit_distance(text, edited(text, place, character)) <= 1


@given(_TEXTS)
def test_edits_reach_every_text_one_away(text: str) -> None:
    alphabet = [DELETION, *"abc"]
    reached = {edited(text, p, c) for p in range(n_places(text)) for c in alphabet}
    neighbors = {text[:i] + text[i + 1 :] for i in range(len(text))}
    neighbors |= {text[:i] + c + text[i:] for i in range(len(text) + 1) for c in "abc"}
    neighbors |= {text[:i] + c + text[i + 1 :] for i in range(len(text)) for c in "abc"}
    assert reached == neighbors | {text}
