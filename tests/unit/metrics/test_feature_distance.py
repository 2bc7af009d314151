import pytest
import torch

from loricate.metrics.feature_distance import FeatureDistance


def test_known_angles() -> None:
    reference = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    output = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 1.0]])
    expected = [0.0, 1.0, 2.0, 1 - 2**-0.5]
    assert FeatureDistance()(output, reference).tolist() == pytest.approx(expected, abs=1e-6)


def test_is_symmetric_and_flattens_feature_maps(rng) -> None:
    a, b = (torch.from_numpy(rng.normal(size=(3, 2, 4, 4))) for _ in range(2))
    assert torch.allclose(FeatureDistance()(a, b), FeatureDistance()(b, a))
    assert torch.equal(FeatureDistance()(a, b), FeatureDistance()(a.flatten(1), b.flatten(1)))
