"""Large pictures come in smaller batches."""

import pytest

pytest.importorskip("torch")

import torch

from loricate.core.batches import fitting


@pytest.mark.parametrize(
    ("side", "expected"), [(32, 50), (48, 50), (64, 50), (128, 12), (256, 3), (512, 1), (1024, 1)]
)
def test_a_batch_has_no_more_pixels_than_at_the_usual_size(side: int, expected: int) -> None:
    images = torch.empty(3, 3, side, side, device="meta")
    assert fitting(50, images) == expected
    assert expected == 1 or expected * side**2 <= 50 * 64**2
