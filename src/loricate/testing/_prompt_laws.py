"""What prompt attacks and the objectives they raise have to keep."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch

from loricate.basics.errors import ConfigError, NumericalError, UnsupportedError
from loricate.core.generators import Seeds, sample_seeds
from loricate.core.objective import Objective
from loricate.core.prompt_attack import PromptAttack, PromptResult
from loricate.core.prompt_problem import Candidate, PromptProblem
from loricate.core.shapes import PerSample
from loricate.core.text_budgets import CharBudget, TextBudget, TokenBudget
from loricate.objectives.embedding_shift import EmbeddingShift
from loricate.testing.prompts import LetterSurface

__all__ = ["OBJECTIVE", "PROMPT_KINDS", "laws"]

PROMPT_KINDS: Final = frozenset({"text_encoder", "denoising", "generation"})
"""Kinds of surfaces that read prompts."""

_PROMPTS: Final = ("a cat", "dog", "red house")
_BUDGETS: Final = (
    CharBudget(edits=1),
    CharBudget(edits=2, keeps_words=True),
    TokenBudget(tokens=1),
    TokenBudget(tokens=3, where="suffix"),
)
_ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class _Case:
    surface: LetterSurface
    budget: TextBudget
    objective: Objective
    prompts: tuple[str, ...] = _PROMPTS

    @property
    def seeds(self) -> Seeds:
        return sample_seeds(0, range(len(self.prompts)))

    def run(self, attack: PromptAttack, seeds: Seeds | None = None) -> PromptResult:
        seeds = self.seeds if seeds is None else seeds
        return attack(self.surface, self.objective, self.budget, self.prompts, seeds=seeds)

    def value(self, prompts: Sequence[str]) -> PerSample:
        """The objective, scored without the harness; for surfaces that are not random."""
        clean = self.surface(self.prompts, self.seeds)
        return self.objective.value(self.surface(prompts, self.seeds), clean)


def laws(attack: PromptAttack) -> tuple[Callable[[PromptAttack], None], ...]:
    """The laws of a prompt attack."""
    return _ALWAYS


def stays_in_budget_and_window(attack: PromptAttack) -> None:
    """Texts, tokenized again, are within the budget, and no longer than the model reads."""
    for case in _cases(attack):
        for clean, text in zip(case.prompts, case.run(attack).raw, strict=True):
            size = case.budget.size(clean, text, case.surface)
            assert size <= case.budget.limit, (
                f"{text!r} is {size} {case.budget.unit} from {clean!r}"
            )
            assert case.surface.n_tokens(text) <= case.surface.max_tokens


def is_never_worse_than_the_prompt(attack: PromptAttack) -> None:
    """The value reported is the value of what was returned, and not below the prompt's."""
    for case in _cases(attack):
        result = case.run(attack)
        value = case.value(result.prompts)
        assert torch.allclose(result.value, value), f"reported {result.value}, is {value}"
        assert (value >= result.clean_value).all(), f"{value} is below {result.clean_value}"


def same_seed_same_result(attack: PromptAttack) -> None:
    """Runs are repeatable, on a random surface too."""
    for case in _cases(attack):
        for each in (case, replace(case, surface=LetterSurface(sigma=0.3))):
            first, second = each.run(attack), each.run(attack)
            assert first.raw == second.raw, "two runs with the same seeds differ"
            assert torch.equal(first.value, second.value)


def batch_mates_do_not_matter(attack: PromptAttack) -> None:
    """A batch of three is three batches of one."""
    for case in _cases(attack)[:2]:
        together = case.run(attack)
        for row, seed in enumerate(case.seeds):
            alone = replace(case, prompts=case.prompts[row : row + 1]).run(attack, [seed])
            assert alone.raw[0] == together.raw[row], f"row {row}"
            assert torch.allclose(alone.value[0], together.value[row], atol=_ROUNDING)
            assert alone.queries[0] == together.queries[row], f"queries of row {row}"


def leaves_global_generators_alone(attack: PromptAttack) -> None:
    """Randomness comes from the seeds, never from shared generators."""
    before = _global_states()
    for case in _cases(attack):
        case.run(attack)
    assert _global_states() == before, "the attack drew from a global generator"


def counts_queries(attack: PromptAttack) -> None:
    """Every text tried is counted; the harness asks thrice more for each prompt."""
    for case in _cases(attack):
        result = case.run(attack)
        asked, own = sum(case.surface.asked), 3 * len(case.prompts)
        assert sum(result.queries) == asked - own, f"counted {result.queries} of {asked - own}"
        case.surface.asked.clear()


def refuses_prompts_it_cannot_attack(attack: PromptAttack) -> None:
    """No prompt, an empty one, or one the model would cut off is an error."""
    case = _cases(attack)[0]
    for prompts in ((), ("", "a"), (" ", "a"), ("a", "x" * 13)):
        try:
            replace(case, prompts=prompts).run(attack)
        except ConfigError:
            continue
        raise AssertionError(f"{prompts} went through")


def refuses_nan(attack: PromptAttack) -> None:
    """NaN in the output is an error, never a result."""
    for case in _cases(attack):
        try:
            replace(case, surface=LetterSurface(planted=float("nan"))).run(attack)
        except NumericalError:
            continue
        raise AssertionError("NaN went through")


_ALWAYS: Final = (
    stays_in_budget_and_window,
    is_never_worse_than_the_prompt,
    same_seed_same_result,
    batch_mates_do_not_matter,
    leaves_global_generators_alone,
    counts_queries,
    refuses_prompts_it_cannot_attack,
    refuses_nan,
)


def value_is_one_number_a_prompt(objective: Objective) -> None:
    """Values come a row each, and rows do not depend on their batch."""
    problem = _problem(objective, _PROMPTS)
    tried = [Candidate(row, text) for row, text in enumerate(("a cst", "dig", "rad house"))]
    together = problem.value(tried)
    assert together.shape == (3,)
    for row in range(3):
        alone = _problem(objective, _PROMPTS[row : row + 1], row)
        value = alone.value([Candidate(0, tried[row].text)])
        assert torch.allclose(value[0], together[row]), f"row {row} depends on its batch"


def reference_has_no_gradient(objective: Objective) -> None:
    """What outputs are compared with is a constant."""
    surface: Any = LetterSurface()
    reference = objective.reference(surface, _PROMPTS, [0, 1, 2])  # type: ignore[arg-type]
    assert not reference.requires_grad
    assert len(reference) == len(_PROMPTS)


def gradient_matches_differences(objective: Objective) -> None:
    """The slope in embeddings is that of the value, along random directions."""
    surface: Any = LetterSurface()
    reference = objective.reference(surface, _PROMPTS, [0, 1, 2])  # type: ignore[arg-type]
    x = surface.embed(("a cst", "dig", "rad house")).requires_grad_()
    value = objective.value(surface.from_embeddings(x, [0, 1, 2]), reference)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
    steps = (1e-6 * direction, -1e-6 * direction)
    ahead, behind = (
        objective.value(surface.from_embeddings(x.detach() + step, [0, 1, 2]), reference)
        for step in steps
    )
    slope, expected = (ahead - behind) / 2e-6, (gradient * direction).flatten(1).sum(1)
    assert torch.allclose(slope, expected, rtol=1e-5), f"{expected} is not {slope}"


OBJECTIVE: Final = (
    value_is_one_number_a_prompt,
    reference_has_no_gradient,
    gradient_matches_differences,
)


def _problem(objective: Objective, prompts: Sequence[str], first: int = 0) -> PromptProblem:
    seeds = sample_seeds(0, range(first, first + len(prompts)))
    return PromptProblem(LetterSurface(), objective, CharBudget(edits=2), prompts, seeds)


def _cases(attack: PromptAttack) -> list[_Case]:
    """One case a budget the attack can spend."""
    cases = []
    for budget in _BUDGETS:
        case = _Case(LetterSurface(), budget, EmbeddingShift())
        try:
            replace(case, surface=LetterSurface(), prompts=("a",)).run(attack)
        except UnsupportedError:
            continue
        cases.append(case)
    assert cases, "the attack can spend no budget"
    return cases


def _global_states() -> dict[str, Any]:
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - what must not move
    return {
        "random": random.getstate(),
        "numpy": (legacy["key"].tobytes(), legacy["pos"]),
        "torch": torch.get_rng_state().tolist(),
    }
