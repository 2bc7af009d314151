import math

import pytest

pytest.importorskip("torch")

import torch

from loricate.basics.errors import ShapeError
from loricate.metrics.embedding_drift import EmbeddingDrift


def test_distance_over_the_unit() -> None:
    output, reference = torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)
    output[0, 1, 2], output[1, 0, 0], output[1, 2, 3] = 3.0, 3.0, 4.0
    assert EmbeddingDrift()(output, reference).tolist() == [3.0, 5.0]
    assert EmbeddingDrift(spread=2.0)(output, reference).tolist() == [1.5, 2.5]


def test_the_spread_of_two_prompts_is_half_their_distance() -> None:
    states = torch.zeros(2, 3, 4)
    states[0, 0, 0] = 6.0
    assert EmbeddingDrift.spread_of(states) == pytest.approx(3.0)


def test_independent_prompts_are_about_the_root_of_two_apart() -> None:
    states = torch.randn(400, 6, 8, generator=torch.Generator().manual_seed(0))
    drift = EmbeddingDrift(spread=EmbeddingDrift.spread_of(states))
    assert float(drift(states[:200], states[200:]).mean()) == pytest.approx(math.sqrt(2), rel=0.05)


@pytest.mark.parametrize("states", [torch.ones(1, 2, 3), torch.ones(4, 2, 3)])
def test_prompts_that_are_all_alike_have_no_spread(states) -> None:
    with pytest.raises(ShapeError):
        EmbeddingDrift.spread_of(states)
