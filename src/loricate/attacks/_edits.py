"""Single-character edits, and the greedy climb that all character attacks share."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from loricate.core.prompt_problem import Candidate, PromptProblem

__all__ = ["ASCII", "DELETION", "Greedy", "Leaders", "edited", "n_places"]

ASCII: Final = string.ascii_lowercase + string.digits + string.punctuation + " "
"""Characters of the alphabet, upper case left out: prompts are read in lower case."""

DELETION: Final = ""
"""The character that deletes another."""


def n_places(text: str) -> int:
    """Places of a text that an edit can go to: its characters, and the gaps around them."""
    return 2 * len(text) + 1


def edited(text: str, place: int, character: str) -> str:
    """A text with one edit.

    Args:
        text: What is edited.
        place: Odd places are characters, which are replaced; even ones are gaps.
        character: What goes there; ``DELETION`` leaves a gap as it is.
    """
    at, is_character = divmod(place, 2)
    return text[:at] + character + text[at + is_character :]


class Leaders:
    """The best text of each prompt so far.

    Args:
        problem: What judges them.
    """

    def __init__(self, problem: PromptProblem) -> None:
        self.texts = [*problem.prompts]
        self._values = problem.clean_value.tolist()
        self._problem = problem

    def offer(self, candidates: Sequence[Candidate]) -> list[float]:
        """Keep what is better.

        Args:
            candidates: Texts inside the budget.

        Returns:
            Value of each.
        """
        values: list[float] = self._problem.value(candidates).tolist()
        for candidate, value in zip(candidates, values, strict=True):
            if value > self._values[candidate.row]:
                self.texts[candidate.row] = candidate.text
                self._values[candidate.row] = value
        return values


@dataclass(frozen=True)
class Greedy:
    """One edit after the other: probe places with a space, then try characters at the best.

    Args:
        n_probes: Random places probed; ``None`` probes all.
        n_best: Places at which characters are tried.
        n_characters: Random characters tried there; ``None`` tries all.
        alphabet: Characters to try beside deletion.
    """

    n_probes: int | None
    n_best: int
    n_characters: int | None
    alphabet: str

    def climb(self, problem: PromptProblem) -> list[str]:
        """Best text found for each prompt, after as many rounds as edits are allowed."""
        leaders = Leaders(problem)
        for round_ in range(problem.budget.limit):
            draws = problem.random(round_)
            start = [*leaders.texts]
            probes = [
                (row, place)
                for row, text in enumerate(start)
                for place in _some(n_places(text), self.n_probes, draws[row])
            ]
            places = self._best(probes, start, leaders, problem)
            trials = [
                Candidate(row, edited(start[row], place, character))
                for row, place in places
                for character in self._characters(draws[row])
            ]
            leaders.offer([trial for trial in trials if problem.admits(trial)])
        return leaders.texts

    def _best(
        self,
        probes: Sequence[tuple[int, int]],
        start: Sequence[str],
        leaders: Leaders,
        problem: PromptProblem,
    ) -> list[tuple[int, int]]:
        """The places of each prompt at which a space is worth most."""
        spaced = [Candidate(row, edited(start[row], place, " ")) for row, place in probes]
        admitted = [at for at, candidate in enumerate(spaced) if problem.admits(candidate)]
        values = leaders.offer([spaced[at] for at in admitted])
        ranked = sorted(zip(values, admitted, strict=True), key=lambda each: -each[0])
        kept: dict[int, list[int]] = {}
        for _, at in ranked:
            row, place = probes[at]
            if len(kept.setdefault(row, [])) < self.n_best:
                kept[row].append(place)
        return [(row, place) for row in sorted(kept) for place in kept[row]]

    def _characters(self, draw: torch.Generator) -> list[str]:
        choices = [DELETION, *self.alphabet]
        return [choices[index] for index in _some(len(choices), self.n_characters, draw)]


def _some(n: int, wanted: int | None, draw: torch.Generator) -> list[int]:
    if wanted is None:
        return [*range(n)]
    chosen: list[int] = torch.randperm(n, generator=draw)[:wanted].tolist()
    return chosen
