"""Every registered part keeps the laws of its kind, with nobody listing them."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch")

from loricate.basics import registry
from loricate.basics.spec import Spec
from loricate.core.attack import Attack
from loricate.core.defense import InputDefense, Regularizer
from loricate.core.metric import Metric
from loricate.core.objective import Objective
from loricate.core.prompt_attack import PromptAttack
from loricate.testing.conformance import laws

_KINDS = {
    "attacks": (Attack, PromptAttack),
    "objectives": Objective,
    "defenses": (InputDefense, Regularizer),
    "metrics": Metric,
}
_VARIANTS: dict[str, list[dict[str, Any]]] = {
    "homoglyph": [{"without_width": False}],
    "pgd": [{"steps": 10, "n_restarts": 2}, {"steps": 20, "step_size": 0.1, "decay": False}],
    "jpeg": [{"bpda": "identity"}],
    "latent_target": [{"pattern": "gray"}],
    "score_distillation": [{"sign": "+"}],
    "spsa": [{"steps": 3, "n_pairs": 4, "directions": "normal"}],
}
"""Settings that deserve the laws beside the defaults."""

_QUICK: dict[str, dict[str, Any]] = {
    "apgd": {"steps": 20},
    "spsa": {"steps": 3, "n_pairs": 4},
    "square": {"queries": 40},
    "strongest": {"attacks": [{"name": "pgd", "steps": 12}, {"name": "square", "queries": 12}]},
}
"""Settings in place of defaults that would take minutes."""


def _parts() -> Iterator[tuple[str, Spec]]:
    for kind, contract in _KINDS.items():
        for name in registry.names(kind):
            cls = registry.get(kind, name)
            if issubclass(cls, contract):
                for number, fields in enumerate([_QUICK.get(name, {}), *_VARIANTS.get(name, [])]):
                    yield f"{name}{number or ''}", cls(**fields)


_CASES = [
    pytest.param(part, law, id=f"{name}-{law.__name__}")
    for name, part in _parts()
    for law in laws(part)
]


@pytest.mark.parametrize(("part", "law"), _CASES)
def test_law(part: Spec, law) -> None:
    law(part)


def test_kinds_without_laws_are_refused() -> None:
    with pytest.raises(TypeError):
        laws(Spec())
