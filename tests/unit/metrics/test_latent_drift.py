import math

import pytest
import torch

from loricate.basics.errors import ShapeError
from loricate.basics.spec import from_table, to_table
from loricate.metrics.latent_drift import LatentDrift


def test_by_hand() -> None:
    # One channel of mean 2: centered it is (-1, 1) with norm sqrt(2); the shift has norm 1.
    reference = torch.tensor([[[1.0, 3.0]]])
    output = torch.tensor([[[1.0, 4.0]]])
    assert LatentDrift()(output, reference).item() == pytest.approx(1 / math.sqrt(2))


def test_a_constant_added_to_a_channel_changes_nothing(rng) -> None:
    reference = torch.from_numpy(rng.normal(size=(3, 2, 4, 4)))
    output = reference + 0.1 * torch.from_numpy(rng.normal(size=(3, 2, 4, 4)))
    offset = torch.tensor([5.0, -7.0]).view(1, 2, 1, 1)
    moved = LatentDrift()(output + offset, reference + offset)
    assert torch.allclose(moved, LatentDrift()(output, reference))


def test_grows_linearly_with_the_displacement_and_ignores_scale(rng) -> None:
    reference = torch.from_numpy(rng.normal(size=(3, 2, 4, 4)))
    delta = torch.from_numpy(rng.normal(size=(3, 2, 4, 4)))
    once, twice = (LatentDrift()(reference + k * delta, reference) for k in (1, 2))
    assert torch.allclose(twice, 2 * once)
    assert torch.allclose(LatentDrift()(9 * (reference + delta), 9 * reference), once)


def test_fixed_means_make_rows_independent_of_their_batch(rng) -> None:
    reference = torch.from_numpy(rng.normal(size=(4, 2, 3, 3)))
    output = reference + torch.from_numpy(rng.normal(size=(4, 2, 3, 3)))
    fixed = LatentDrift(channel_mean=LatentDrift.means(reference))
    whole = fixed(output, reference)
    assert torch.allclose(whole, LatentDrift()(output, reference))
    assert torch.equal(whole[2:3], fixed(output[2:3], reference[2:3]))
    assert not torch.allclose(whole[2:3], LatentDrift()(output[2:3], reference[2:3]))


def test_without_spread_any_drift_is_infinite_and_none_is_zero() -> None:
    flat = torch.ones(1, 2, 3, 3)
    assert LatentDrift()(flat, flat).item() == 0.0
    assert LatentDrift()(flat + 1, flat).item() == math.inf


def test_nan_is_not_hidden() -> None:
    reference = torch.tensor([[[1.0, 3.0]]])
    assert math.isnan(LatentDrift()(reference * math.nan, reference).item())


def test_refuses_channel_means_that_do_not_exist_or_do_not_fit() -> None:
    row = torch.ones(1, 4)
    with pytest.raises(ShapeError) as caught:
        LatentDrift()(row, row)
    assert caught.value.hint == "set channel_mean"
    with pytest.raises(ShapeError):
        LatentDrift(channel_mean=(0.0, 1.0))(row, row)


def test_fixed_means_survive_a_table() -> None:
    metric = LatentDrift(channel_mean=(0.5, -1.25))
    assert from_table(LatentDrift, to_table(metric)) == metric
