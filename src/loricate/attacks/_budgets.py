"""Which budgets an attack on prompts can spend."""

from typing import Final, TypeVar

from loricate.basics.errors import UnsupportedError
from loricate.core.prompt_problem import PromptProblem
from loricate.core.text_budgets import CharBudget, TokenBudget

__all__ = ["budget_of"]

_HINTS: Final = {
    CharBudget: "use CharBudget(edits=...)",
    TokenBudget: "use TokenBudget(tokens=...)",
}

B = TypeVar("B", CharBudget, TokenBudget)


def budget_of(problem: PromptProblem, kind: type[B], attack: object) -> B:
    """The budget of a problem, where it counts what an attack spends.

    Args:
        problem: Its budget.
        kind: What the attack can spend.
        attack: What asks.

    Raises:
        UnsupportedError: The budget counts something else.
    """
    if not isinstance(problem.budget, kind):
        raise UnsupportedError(
            f"a budget of {problem.budget.unit}",
            by=f"attack {type(attack).__name__}",
            hint=_HINTS[kind],
        )
    return problem.budget
