"""What a prompt attack is given: the value of candidate texts, and nothing about the model."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from loricate.basics.errors import NumericalError, UnsupportedError
from loricate.basics.seeds import derive_seed
from loricate.core.generators import Seeds, generators
from loricate.core.objective import Objective
from loricate.core.prompt_surface import PromptSurface, Tokens
from loricate.core.shapes import PerSample
from loricate.core.text_budgets import TextBudget

__all__ = ["Candidate", "PromptProblem"]

_BATCH = 256


@dataclass(frozen=True)
class Candidate:
    """A text proposed for one of the prompts.

    Args:
        row: Which prompt.
        text: What it would become.
    """

    row: int
    text: str


class PromptProblem:
    """Value and gradient of an objective at texts near clean prompts.

    On a random surface all texts of a prompt meet the attacker's own draw, never the one results
    are scored with. A query is one text whose output was computed, by a forward pass or as part
    of a gradient; the clean prompts are not counted.

    Args:
        surface: The attacked map.
        objective: What to maximize.
        budget: Allowed changes.
        prompts: Clean prompts.
        seeds: One a prompt.
    """

    def __init__(
        self,
        surface: PromptSurface,
        objective: Objective,
        budget: TextBudget,
        prompts: Sequence[str],
        seeds: Seeds,
    ) -> None:
        self.budget = budget
        self.prompts = tuple(prompts)
        self.queries = [0] * len(prompts)
        self._surface = surface
        self._objective = objective
        self._seeds = seeds
        self._draws = [derive_seed(seed, "attack-draw", 0) for seed in seeds]
        with torch.no_grad():
            # Objectives know no prompts: what they pass on to the surface is its own business.
            self._reference = objective.reference(surface, self.prompts, self._draws)  # type: ignore[arg-type]
            clean = surface(self.prompts, self._draws)
            self.clean_value = self._finite(objective.value(clean, self._reference))

    @property
    def writable(self) -> Tensor:
        """Ids of tokens that are read back as they are written."""
        return self._surface.writable

    def random(self, restart: int) -> list[torch.Generator]:
        """One generator a prompt for a restart."""
        return generators(self._seeds, "restart", restart)

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Ids of texts, start, end and padding included."""
        return self._surface.tokens(texts)

    def text(self, tokens: Tokens) -> list[str]:
        """Texts of ids."""
        return self._surface.text(tokens)

    @property
    def max_tokens(self) -> int:
        """Tokens a text may have, start and end not counted."""
        return self._surface.max_tokens

    def n_tokens(self, text: str) -> int:
        """Tokens of a text, start and end not counted."""
        return self._surface.n_tokens(text)

    def admits(self, candidate: Candidate) -> bool:
        """Whether a text is inside the budget and fits the model's window."""
        size = self.budget.size(self.prompts[candidate.row], candidate.text, self._surface)
        fits = self._surface.n_tokens(candidate.text) <= self._surface.max_tokens
        return size <= self.budget.limit and fits

    def reads_anew(self, candidate: Candidate) -> bool:
        """Whether the tokenizer sees the change at all."""
        clean, changed = self._surface.tokens([self.prompts[candidate.row], candidate.text])
        return not torch.equal(clean, changed)

    @torch.no_grad()
    def value(self, candidates: Sequence[Candidate]) -> PerSample:
        """Objective of each candidate.

        Args:
            candidates: Texts for any of the prompts, in any order, inside the window.

        Returns:
            One value a candidate.

        Raises:
            NumericalError: The objective is NaN or infinite.
        """
        chunks = [candidates[i : i + _BATCH] for i in range(0, len(candidates), _BATCH)]
        return torch.cat([self.clean_value[:0], *map(self._evaluate, chunks)])

    def value_and_grad(
        self, candidates: Sequence[Candidate]
    ) -> tuple[PerSample, Float[Tensor, "n length entries"]]:
        """Objective of each candidate, and its slope towards every token at every place.

        Args:
            candidates: Texts inside the window.

        Returns:
            Values, and gradients in the one-hot coordinates of the tokens.

        Raises:
            NumericalError: The objective is NaN or infinite.
            UnsupportedError: The surface cuts its output off from its embeddings.
        """
        leaf = self._surface.embed([c.text for c in candidates]).detach().requires_grad_(True)
        with torch.enable_grad():
            value = self._judge(candidates, leaf)
            slope = _slope(value, leaf)
        return value.detach(), slope @ self._surface.vocabulary.detach().T

    def _evaluate(self, candidates: Sequence[Candidate]) -> PerSample:
        return self._judge(candidates, self._surface.embed([c.text for c in candidates]))

    def _judge(self, candidates: Sequence[Candidate], embeddings: Tensor) -> PerSample:
        rows = [candidate.row for candidate in candidates]
        for row in rows:
            self.queries[row] += 1
        seeds = [self._draws[row] for row in rows]
        output = self._surface.rows(rows).from_embeddings(embeddings, seeds)
        return self._finite(self._objective.value(output, self._reference[rows]))

    @staticmethod
    def _finite(value: PerSample) -> PerSample:
        if not bool(torch.isfinite(value).all()):
            raise NumericalError("the objective is NaN or infinite", where="prompts")
        return value


def _slope(value: PerSample, leaf: Tensor) -> Tensor:
    grad = torch.autograd.grad(value.sum(), leaf, allow_unused=True) if value.requires_grad else ()
    if not grad or grad[0] is None:
        hint = "use an attack without gradients"
        raise UnsupportedError("a gradient attack", by="a surface without gradient", hint=hint)
    return grad[0]
