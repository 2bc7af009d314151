"""The harness around every prompt attack: it owns budget, tokenization and score."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from loricate.basics.errors import BudgetViolation, ShapeError
from loricate.basics.spec import Spec
from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.prompt_problem import Candidate, PromptProblem
from loricate.core.prompt_surface import PromptSurface, require_prompts
from loricate.core.shapes import PerSample
from loricate.core.text_budgets import TextBudget

__all__ = ["PromptAttack", "PromptResult"]


@dataclass(frozen=True)
class PromptResult:
    """What a prompt attack found, judged by the harness.

    Args:
        raw: The attack's own texts.
        prompts: The same, or the clean prompt where that is worth more.
        value: Objective of ``prompts`` on the attack's draw.
        clean_value: Objective of the clean prompts on the same draw.
        queries: Texts tried for each prompt, not counting the harness's own.
    """

    raw: tuple[str, ...]
    prompts: tuple[str, ...]
    value: PerSample
    clean_value: PerSample
    queries: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptAttack(Spec):
    """Raises an objective inside a text budget; subclasses write ``perturb`` alone."""

    registry_kind = "attacks"

    @final
    def __call__(
        self,
        surface: PromptSurface,
        objective: Objective,
        budget: TextBudget,
        prompts: Sequence[str],
        *,
        seeds: Seeds,
    ) -> PromptResult:
        """Attack prompts and score what is left after they are tokenized again.

        Args:
            surface: Everything deployed, as one map.
            objective: What to maximize.
            budget: Allowed changes.
            prompts: Clean prompts.
            seeds: One a prompt; equal seeds give equal results in any batch.

        Returns:
            Prompts never worth less than the clean ones to the attacker.

        Raises:
            ConfigError: An empty prompt, or one longer than the model reads.
            ShapeError: Not one seed a prompt.
            NumericalError: NaN in the objective.
            BudgetViolation: ``perturb`` left the budget or the model's window.
        """
        require_prompts(prompts, surface)
        if len(seeds) != len(prompts):
            raise ShapeError(f"{len(prompts)} seeds, one a prompt", len(seeds), where="seeds")
        problem = PromptProblem(surface, objective, budget, prompts, seeds)
        raw = tuple(self.perturb(problem.prompts, problem))
        queries = tuple(problem.queries)
        _require_within(raw, problem, surface)
        value = problem.value([Candidate(row, text) for row, text in enumerate(raw)])
        better = (value > problem.clean_value).tolist()
        kept = zip(better, raw, problem.prompts, strict=True)
        return PromptResult(
            raw=raw,
            prompts=tuple(text if gains else clean for gains, text, clean in kept),
            value=torch.maximum(value, problem.clean_value),
            clean_value=problem.clean_value,
            queries=queries,
        )

    @abstractmethod
    def perturb(self, prompts: Sequence[str], problem: PromptProblem) -> Sequence[str]:
        """Best text found for each prompt.

        Args:
            prompts: Clean prompts.
            problem: Values, gradients, budget and draws.

        Returns:
            One text a prompt.
        """


def _require_within(raw: Sequence[str], problem: PromptProblem, surface: PromptSurface) -> None:
    if len(raw) != len(problem.prompts):
        raise ShapeError(f"{len(problem.prompts)} texts from the attack", len(raw))
    budget = problem.budget
    for row, (clean, text) in enumerate(zip(problem.prompts, raw, strict=True)):
        sizes = {
            f"{budget.unit} changed": (budget.size(clean, text, surface), budget.limit),
            "tokens of the model's window": (surface.n_tokens(text), surface.max_tokens),
        }
        for what, (got, allowed) in sizes.items():
            if got > allowed:
                raise BudgetViolation(what, allowed=allowed, got=got, sample=row)
