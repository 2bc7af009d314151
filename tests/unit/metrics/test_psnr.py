import math

import pytest
import torch

from loricate.basics.errors import ShapeError
from loricate.metrics.psnr import PSNR


def test_a_uniform_error_of_a_tenth_is_twenty_decibels() -> None:
    reference = torch.full((2, 3, 4, 4), 0.5)
    output = reference + torch.tensor([0.1, -0.01]).view(2, 1, 1, 1)
    assert PSNR()(output, reference).tolist() == pytest.approx([20.0, 40.0], abs=1e-4)


def test_identical_pictures_are_infinitely_close() -> None:
    x = torch.full((1, 1, 2, 2), 0.3)
    assert PSNR()(x, x).item() == math.inf


def test_shapes_have_to_agree() -> None:
    with pytest.raises(ShapeError) as caught:
        PSNR()(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    assert caught.value.got == (2, 3, 4, 4)


def test_refuses_single_vectors_and_bytes() -> None:
    with pytest.raises(ShapeError):
        PSNR()(torch.zeros(3), torch.zeros(3))
    with pytest.raises(ShapeError):
        PSNR()(*[torch.zeros(1, 3, 2, 2, dtype=torch.uint8)] * 2)
