"""Surfaces around functions and behind defenses."""

import pytest
import torch

from loricate.basics.errors import ShapeError
from loricate.core.domain import PIXELS
from loricate.defenses.bit_depth import BitDepth
from loricate.defenses.resize import Resize
from loricate.surfaces.defended import DefendedSurface, defended
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import NoisySurface, conv_encoder, pictures


@pytest.mark.parametrize(
    ("function", "got"), [(lambda x: x[:1], (1, 3, 12, 12)), (lambda x: (x,), "tuple")]
)
def test_outputs_are_one_row_a_sample(function, got) -> None:
    with pytest.raises(ShapeError) as caught:
        ModuleSurface(function)(pictures(2), [0, 0])
    assert caught.value.got == got


def test_defenses_act_in_order() -> None:
    surface, x = ModuleSurface(conv_encoder()), pictures(2)
    both = DefendedSurface(surface, (BitDepth(bits=1), Resize()))
    expected = surface(Resize()(BitDepth(bits=1)(x, [0, 0]), [0, 0]), [0, 0])
    assert torch.equal(both(x, [0, 0]), expected)
    assert both.domain is PIXELS


def test_randomness_shows_through_and_nothing_wraps_nothing() -> None:
    surface = ModuleSurface(conv_encoder())
    assert defended(surface, ()) is surface
    assert not defended(surface, (Resize(),)).is_random
    assert defended(NoisySurface(surface), (Resize(),)).is_random
