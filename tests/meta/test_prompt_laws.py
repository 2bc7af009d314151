"""Every law of prompt attacks and their objectives has to bite."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")

import torch
from torch import Tensor

from loricate.attacks.random_characters import RandomCharacters
from loricate.basics.errors import LoricateError
from loricate.basics.seeds import derive_seed
from loricate.core.objective import Objective
from loricate.core.prompt_attack import PromptAttack
from loricate.core.prompt_problem import Candidate
from loricate.core.text_budgets import CharBudget
from loricate.testing import _prompt_laws as of_prompts

_CAUGHT = (AssertionError, LoricateError)


def _attack(perturb) -> PromptAttack:
    own = {"perturb": lambda self, prompts, problem: perturb(prompts, problem)}
    return dataclass(frozen=True, kw_only=True)(type("Sabotaged", (PromptAttack,), own))()


def _characters_only(problem) -> None:
    if not isinstance(problem.budget, CharBudget):
        RandomCharacters().perturb((), problem)


def _too_far(prompts, problem):
    _characters_only(problem)
    return [text + "x" * (problem.budget.limit + 1) for text in prompts]


def _by_batch(prompts, problem):
    _characters_only(problem)
    return [text + "abc"[len(prompts) - 1] for text in prompts]


def _from_the_air(prompts, problem):
    _characters_only(problem)
    return [text + chr(97 + int(torch.randint(26, ()))) for text in prompts]


def _uncounted(prompts, problem):
    _characters_only(problem)
    problem.value([Candidate(0, "b")])
    problem.queries[0] -= 1
    return prompts


_SEEN = iter(range(10**9))


def _another_each_time(prompts, problem):
    _characters_only(problem)
    at = derive_seed(0, next(_SEEN)) % 26
    return [text + chr(97 + at) for text in prompts]


@pytest.mark.parametrize(
    ("perturb", "law"),
    [
        (_too_far, of_prompts.stays_in_budget_and_window),
        (_by_batch, of_prompts.batch_mates_do_not_matter),
        (_another_each_time, of_prompts.same_seed_same_result),
        (_uncounted, of_prompts.counts_queries),
    ],
)
def test_a_sabotaged_attack_is_caught(perturb, law) -> None:
    with pytest.raises(_CAUGHT):
        law(_attack(perturb))


def test_an_attack_that_draws_globally_is_caught() -> None:
    with torch.random.fork_rng(devices=[]), pytest.raises(_CAUGHT):
        of_prompts.leaves_global_generators_alone(_attack(_from_the_air))


def test_a_harness_that_takes_losses_is_caught(monkeypatch) -> None:
    honest = of_prompts._Case.run

    def run(case, *args: Any):
        result = honest(case, *args)
        return replace(result, value=result.value - 1)

    monkeypatch.setattr(of_prompts._Case, "run", run)
    with pytest.raises(_CAUGHT):
        of_prompts.is_never_worse_than_the_prompt(RandomCharacters())


@pytest.mark.parametrize(
    "law", [of_prompts.refuses_nan, of_prompts.refuses_prompts_it_cannot_attack]
)
def test_a_harness_that_lets_anything_through_is_caught(law, monkeypatch) -> None:
    monkeypatch.setattr(of_prompts._Case, "run", lambda self, attack, seeds=None: None)
    with pytest.raises(_CAUGHT):
        law(RandomCharacters())


class _OverTheBatch(Objective):
    surface_kind: ClassVar[str] = "text_encoder"

    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).square().mean().expand(len(output))


class _Live(Objective):
    surface_kind: ClassVar[str] = "text_encoder"

    def reference(self, surface, x, seeds) -> Tensor:
        return surface.from_embeddings(surface.embed(x).requires_grad_(), seeds)

    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        return (output - reference).flatten(1).square().sum(1)


class _Cut(Objective):
    surface_kind: ClassVar[str] = "text_encoder"

    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        moved = output - reference
        return (moved * moved.detach()).flatten(1).sum(1)


@pytest.mark.parametrize(
    ("sabotage", "law"),
    [
        (_OverTheBatch, of_prompts.value_is_one_number_a_prompt),
        (_Live, of_prompts.reference_has_no_gradient),
        (_Cut, of_prompts.gradient_matches_differences),
    ],
)
def test_a_sabotaged_objective_is_caught(sabotage, law) -> None:
    with pytest.raises(AssertionError):
        law(dataclass(frozen=True, kw_only=True)(sabotage)())


def test_every_law_is_broken_at_least_once() -> None:
    assert {*of_prompts._ALWAYS} == {
        of_prompts.stays_in_budget_and_window,
        of_prompts.batch_mates_do_not_matter,
        of_prompts.same_seed_same_result,
        of_prompts.counts_queries,
        of_prompts.leaves_global_generators_alone,
        of_prompts.is_never_worse_than_the_prompt,
        of_prompts.refuses_nan,
        of_prompts.refuses_prompts_it_cannot_attack,
    }
    assert len(of_prompts.OBJECTIVE) == 3
