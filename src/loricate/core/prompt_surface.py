"""The map that prompt attacks attack."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.core.domain import EMBEDDINGS, Domain
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.core.surface import Surface

__all__ = ["EmbeddingSurface", "PromptSurface", "Tokens", "require_prompts"]

Tokens = Int[Tensor, "n length"]
"""Ids as the model gets them: start, prompt, end, padding."""


class PromptSurface(ABC):
    """A map from prompts, differentiable from the token embeddings on.

    Everything deployed is inside: adapter, sampler, decoder. Prompts that the model would cut off
    are refused, so no attack gains by pushing the end of a prompt out of the window.
    """

    @property
    def is_random(self) -> bool:
        """Whether the output depends on the seeds."""
        return False

    @property
    @abstractmethod
    def max_tokens(self) -> int:
        """Tokens a prompt may have, start and end not counted."""

    @property
    @abstractmethod
    def vocabulary(self) -> Float[Tensor, "entries width"]:
        """Embedding of every token."""

    @property
    @abstractmethod
    def words(self) -> frozenset[str]:
        """Whole words of the vocabulary, in lower case."""

    @property
    @abstractmethod
    def writable(self) -> Tensor:
        """Ids of tokens that, written beside any text, are read back as themselves."""

    @abstractmethod
    def n_tokens(self, text: str) -> int:
        """Tokens of a text, start and end not counted; it may be longer than ``max_tokens``."""

    @abstractmethod
    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """Ids of prompts, start, end and padding included.

        Args:
            prompts: At least one; the empty prompt is a prompt here.

        Returns:
            One row a prompt, all of the length the model works with.

        Raises:
            ConfigError: A prompt is longer than the model reads.
        """

    @abstractmethod
    def text(self, tokens: Tokens) -> list[str]:
        """Texts of ids, start, end and padding left out."""

    @abstractmethod
    def from_embeddings(self, embeddings: Batch, seeds: Seeds) -> Tensor:
        """Outputs for token embeddings, differentiable in them.

        Args:
            embeddings: As ``embed`` returns them, (n, length, width).
            seeds: One a row; ignored where nothing is random.

        Returns:
            One row a prompt.
        """

    def __call__(self, prompts: Sequence[str], seeds: Seeds) -> Tensor:
        """Outputs of prompts; equal seeds give equal outputs.

        Args:
            prompts: At least one.
            seeds: One a prompt.

        Returns:
            One row a prompt.

        Raises:
            ConfigError: A prompt is longer than the model reads.
        """
        return self.from_embeddings(self.embed(prompts), seeds)

    def embed(self, prompts: Sequence[str]) -> Batch:
        """Token embeddings of prompts, (n, length, width)."""
        return self.vocabulary[self.tokens(prompts)]

    def rows(self, indices: Sequence[int]) -> "PromptSurface":
        """The surface for some of its prompts; itself where it is tied to none.

        Args:
            indices: Row of each prompt to come, with repetitions.
        """
        return self

    def embeddings(self) -> Surface:
        """The same map as an ordinary surface, for attacks in a ball of embeddings."""
        return EmbeddingSurface(self)


@final
@dataclass(frozen=True)
class EmbeddingSurface(Surface):
    """A prompt surface from its token embeddings on.

    Args:
        surface: The map from prompts.
    """

    surface: PromptSurface

    @property
    def domain(self) -> Domain:
        """Embeddings, without bounds."""
        return EMBEDDINGS

    @property
    def is_random(self) -> bool:
        """As from prompts."""
        return self.surface.is_random

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Outputs for embeddings."""
        return self.surface.from_embeddings(x, seeds)


def require_prompts(prompts: Sequence[str], surface: PromptSurface) -> None:
    """Refuse what is no prompt to attack.

    Args:
        prompts: What a user gave.
        surface: Where they go.

    Raises:
        ConfigError: None at all, an empty one, or one the model would cut off; all are listed.
    """
    problems = [
        problem for i, text in enumerate(prompts) for problem in _problems(i, text, surface)
    ]
    if not prompts:
        problems = [ConfigProblem(key="prompts", expected="at least one prompt", got=None)]
    if problems:
        raise ConfigError(problems)


def _problems(index: int, text: object, surface: PromptSurface) -> list[ConfigProblem]:
    key = f"prompts.{index}"
    if not isinstance(text, str) or not text.strip():
        return [ConfigProblem(key=key, expected="a prompt with a visible character", got=text)]
    n, most = surface.n_tokens(text), surface.max_tokens
    expected = f"a prompt of at most {most} tokens, not {n}"
    return [ConfigProblem(key=key, expected=expected, got=text)] if n > most else []
