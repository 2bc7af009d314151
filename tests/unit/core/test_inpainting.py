"""Masks: what counts as one."""

import pytest
import torch

from loricate.basics.errors import NumericalError, ShapeError
from loricate.core.inpainting import around_the_middle, require_masks, standard_masks


def test_the_middle_is_kept() -> None:
    mask = around_the_middle(2, 8)
    assert mask.shape == (2, 1, 8, 8)
    assert not mask[..., 2:6, 2:6].any()
    assert int(mask[0].sum()) == 64 - 16


def test_standard_masks_differ_and_are_masks() -> None:
    masks = standard_masks(8)
    require_masks(masks, torch.zeros(1, 3, 8, 8))
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == len(masks) == 5
    assert torch.equal(masks[1] + masks[2], torch.ones(1, 8, 8))
    assert masks[3, 0, :, :4].all()


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 3, 8, 8), (0, 1, 8, 8)])
def test_other_shapes_are_refused(shape) -> None:
    with pytest.raises(ShapeError):
        require_masks(torch.zeros(shape))


@pytest.mark.parametrize("value", [0.5, 255.0, -1.0, float("nan")])
def test_other_values_are_refused(value: float) -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 0, 0] = value
    with pytest.raises(NumericalError):
        require_masks(mask)


def test_masks_of_other_pictures_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        require_masks(torch.zeros(1, 1, 8, 9), torch.zeros(1, 3, 8, 8))
    assert (caught.value.got, caught.value.where) == ((8, 9), "masks")
