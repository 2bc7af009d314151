"""A prompt surface small enough for laws, whose optimum can be known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, final

import torch
from torch import Tensor

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.core.generators import Seeds, generators
from loricate.core.prompt_surface import PromptSurface, Tokens
from loricate.core.shapes import Batch

__all__ = ["LetterSurface"]

_CODES: Final = 64  # of characters, by remainder; small letters keep apart
_START, _END = 2 * _CODES, 2 * _CODES + 1


@final
@dataclass(frozen=True)
class LetterSurface(PromptSurface):
    """One token a letter, another one for the last letter of a word; a random network behind.

    Args:
        max_tokens: Window without start and end.
        seed: Which weights.
        sigma: Noise on the outputs, drawn from the seeds.
        planted: Gain of an extra output that is linear in the embeddings; drowns the others.
        dropped: Characters the tokenizer loses, as some lose U+200B.
        asked: Rows of each call so far.
    """

    max_tokens: int = 12
    seed: int = 0
    sigma: float = 0.0
    planted: float = 0.0
    dropped: str = ""
    asked: list[int] = field(default_factory=list, compare=False)

    @property
    def is_random(self) -> bool:
        """With noise."""
        return self.sigma > 0

    @cached_property
    def vocabulary(self) -> Tensor:
        """Random embeddings of width 4."""
        return self._normal("vocabulary", _END + 1, 4)

    @property
    def words(self) -> frozenset[str]:
        """Three."""
        return frozenset({"cat", "hat", "cart"})

    @property
    def writable(self) -> Tensor:
        """Small letters on their own."""
        return torch.tensor([_code(letter) + _CODES for letter in "abcdefghijklmnopqrstuvwxyz"])

    def n_tokens(self, text: str) -> int:
        """Letters of all words."""
        return len(self._ids(text))

    def tokens(self, prompts: Sequence[str]) -> Tokens:
        """Ids, padded with the end."""
        rows = [self._ids(prompt) for prompt in prompts]
        for index, ids in enumerate(rows):
            if len(ids) > self.max_tokens:
                expected = f"a prompt of at most {self.max_tokens} tokens, not {len(ids)}"
                problem = ConfigProblem(
                    key=f"prompts.{index}", expected=expected, got=prompts[index]
                )
                raise ConfigError(problem)
        padded = [[_START, *ids] + [_END] * (self.max_tokens + 1 - len(ids)) for ids in rows]
        return torch.tensor(padded)

    def text(self, tokens: Tokens) -> list[str]:
        """Letters, with a space behind each last one."""
        return ["".join(map(_written, row)).strip() for row in tokens.tolist()]

    def from_embeddings(self, embeddings: Batch, seeds: Seeds) -> Tensor:
        """Smooth random features of neighbors and places, (n, length, 8)."""
        self.asked.append(len(embeddings))
        before = torch.nn.functional.pad(embeddings, (0, 0, 1, 0))[:, :-1]
        place = self._normal("place", self.max_tokens + 2, 8)
        mixed = embeddings @ self._normal("own", 4, 8) + before @ self._normal("before", 4, 8)
        output = torch.tanh((mixed + place).cumsum(1) / 3)
        if self.sigma:
            noise = [torch.randn(output.shape[1:], generator=g) for g in generators(seeds, "noise")]
            output = output * (1 + self.sigma * torch.stack(noise).to(output))
        if self.planted:
            linear = self.planted * (embeddings @ self.direction).sum(1)
            output = torch.cat([output.flatten(1), linear[:, None]], dim=1)
        return output

    @property
    def direction(self) -> Tensor:
        """What the planted output measures of every embedding."""
        return self._normal("direction", 4)

    def optimum(self, tokens: int) -> float:
        """Largest squared displacement of the planted output by free tokens of the window."""
        gains = (self.vocabulary[self.writable] - self.vocabulary[_END]) @ self.direction
        return float((self.planted * tokens * gains.abs().max()) ** 2)

    def _ids(self, text: str) -> list[int]:
        kept = "".join(c for c in text.lower() if c not in self.dropped)
        return [
            _code(letter) + (_CODES if at + 1 == len(word) else 0)
            for word in kept.split()
            for at, letter in enumerate(word)
        ]

    def _normal(self, name: str, *shape: int) -> Tensor:
        (generator,) = generators([self.seed], name)
        return torch.randn(shape, generator=generator, dtype=torch.float64)


def _code(letter: str) -> int:
    return ord(letter) % _CODES


def _written(token: int) -> str:
    if token >= _START:
        return ""
    letter = chr(_CODES + token % _CODES)
    return f"{letter} " if token >= _CODES else letter
