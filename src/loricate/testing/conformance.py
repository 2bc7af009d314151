"""The laws that every registered part has to keep, ready for tests of plug-ins.

A law is a function that takes the part and raises where it is broken::

    @pytest.mark.parametrize("law", laws(MyAttack(steps=10)), ids=lambda law: law.__name__)
    def test_my_attack(law):
        law(MyAttack(steps=10))
"""

from collections.abc import Callable
from typing import Any

from loricate.basics.spec import Spec
from loricate.core.attack import Attack
from loricate.core.defense import InputDefense, Regularizer
from loricate.core.metric import Metric
from loricate.core.objective import Objective
from loricate.core.prompt_attack import PromptAttack
from loricate.testing import _attack_laws, _part_laws, _prompt_laws
from loricate.testing._spec_laws import survives_toml

__all__ = ["Law", "laws"]

Law = Callable[[Any], None]
"""Raises AssertionError, or an error of loricate, where the part breaks it."""


def laws(part: Spec) -> tuple[Law, ...]:
    """The laws for a part.

    Args:
        part: An attack on pictures or prompts, objective, input defense, regularizer or metric.
            Attacks are tried once on a tiny surface: those that use gradients have more laws to
            keep.

    Returns:
        Functions to call with ``part``.

    Raises:
        TypeError: No laws are written for this type.
    """
    match part:
        case Attack():
            own: tuple[Law, ...] = _attack_laws.laws(part)
        case PromptAttack():
            own = _prompt_laws.laws(part)
        case Objective() if part.surface_kind in _prompt_laws.PROMPT_KINDS:
            own = _prompt_laws.OBJECTIVE
        case Objective():
            own = _part_laws.OBJECTIVE
        case InputDefense():
            own = _part_laws.INPUT_DEFENSE
        case Regularizer():
            own = _part_laws.REGULARIZER
        case Metric():
            own = _part_laws.METRIC
        case _:
            raise TypeError(f"no laws for {type(part).__name__}")
    return (survives_toml, *own)
