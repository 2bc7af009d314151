"""Free token embeddings in front of a prompt, such as a learned word has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from loricate.attacks.pgd import PGD
from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.spec import Count, Length, Spec
from loricate.core.attack import Attack, AttackResult
from loricate.core.balls import L2
from loricate.core.domain import EMBEDDINGS, Domain
from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.prompt_surface import PromptSurface, require_prompts
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.core.threat import ThreatModel

__all__ = ["SoftPrompt"]


@final
@dataclass(frozen=True, kw_only=True)
class SoftPrompt(Spec):
    """An ordinary attack on vectors put between the start token and the prompt.

    The vectors start at the mean of the vocabulary and move in an L2 ball that is wide compared
    with it: in effect unbounded, as a learned token is. No text has these embeddings, so this
    bounds from above what any search for tokens can find in the same places.

    Args:
        tokens: Free vectors.
        radius: Radius of the ball over all vectors, in units of the longest vocabulary vector.
        inner: What moves them.

    Source: the learned token of concept inversion [pham2024]. Deviates: any objective and any
    attack, where that descends the denoising loss with Adam.
    """

    registry_kind: ClassVar[str | None] = "attacks"

    tokens: Count = 1
    radius: Length = 3.0
    inner: Attack = field(default_factory=lambda: PGD(steps=100))

    def __call__(
        self,
        surface: PromptSurface,
        objective: Objective,
        prompts: Sequence[str],
        *,
        seeds: Seeds,
    ) -> AttackResult:
        """Attack prompts through vectors in front of them.

        Args:
            surface: Everything deployed, as one map.
            objective: What to maximize; its reference is that of the clean prompts.
            prompts: Clean prompts.
            seeds: One a prompt.

        Returns:
            The vectors found, (n, tokens, width), and their values.

        Raises:
            ConfigError: An empty prompt, or one without room for the vectors.
        """
        require_prompts(prompts, surface)
        _require_room(prompts, surface, self.tokens)
        vocabulary = surface.vocabulary.detach()
        start = vocabulary.mean(0).expand(len(prompts), self.tokens, -1).clone()
        threat = ThreatModel(ball=L2(epsilon=self.radius * float(vocabulary.norm(dim=1).max())))
        placed = _Placed(surface, tuple(prompts))
        return self.inner(placed, _AgainstClean(placed, objective), threat, start, seeds=seeds)


@dataclass(frozen=True)
class _Placed(Surface):
    """Vectors to outputs, the prompts behind them fixed."""

    surface: PromptSurface
    prompts: tuple[str, ...]

    @property
    def domain(self) -> Domain:
        return EMBEDDINGS

    @property
    def is_random(self) -> bool:
        return self.surface.is_random

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        clean = self.surface.embed(self.prompts)
        placed = torch.cat([clean[:, :1], x, clean[:, 1 : -x.shape[1]]], dim=1)
        return self.surface.from_embeddings(placed, seeds)


@dataclass(frozen=True)
class _AgainstClean(Objective):
    """An objective whose reference is that of the prompts without vectors."""

    placed: _Placed
    objective: Objective

    surface_kind = "any"

    def __post_init__(self) -> None:
        """A surface is no spec field; there is nothing else to check."""

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        prompts: Any = self.placed.prompts
        return self.objective.reference(self.placed.surface, prompts, seeds)  # type: ignore[arg-type]

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        return self.objective.value(output, reference)


def _require_room(prompts: Sequence[str], surface: PromptSurface, tokens: int) -> None:
    most = surface.max_tokens - tokens
    expected = f"a prompt of at most {most} tokens, {tokens} being kept for the vectors"
    problems = [
        ConfigProblem(key=f"prompts.{index}", expected=expected, got=prompt)
        for index, prompt in enumerate(prompts)
        if surface.n_tokens(prompt) > most
    ]
    if problems:
        raise ConfigError(problems)
