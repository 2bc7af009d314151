"""Small adapters in every spelling, and rules held to them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.integrity._base_model import Base
from loricate.integrity.finding import Finding, NotVerified
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Subject

Results: TypeAlias = list[Finding | NotVerified]


@pytest.fixture
def pair(rng: np.random.Generator) -> Callable[..., dict[str, Any]]:
    """Tensors of one module."""

    def build(name: str, *, ends: tuple[str, str] = (".lora_A.weight", ".lora_B.weight")):
        down = rng.standard_normal((4, 16)).astype(np.float32)
        up = 0.1 * rng.standard_normal((16, 4)).astype(np.float32)
        return {name + ends[0]: down, name + ends[1]: up}

    return build


@pytest.fixture
def judged(tmp_path: Path) -> Callable[..., Results]:
    """What a rule says of a file with some tensors."""

    def judge(
        rule: Rule,
        tensors: Mapping[str, Any],
        metadata: Mapping[str, str] | None = None,
        base: Path | None = None,
    ) -> Results:
        path = tmp_path / "adapter.safetensors"
        save_tensors(path, tensors, metadata)
        return list(rule.check(Subject(path, base=None if base is None else Base(base))))

    return judge
