"""Saving with 8 bits: inside the ball, once and for all, near what was found."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.errors import NumericalError, ShapeError
from loricate.core.balls import L2, Linf
from loricate.core.domain import PIXELS, Domain

_DTYPES = st.sampled_from([torch.float32, torch.float64])
_BALLS = st.one_of(
    st.builds(Linf, epsilon=st.floats(0, 0.1)),
    st.integers(0, 20).map(lambda levels: Linf(epsilon=levels / 255)),
    st.builds(L2, epsilon=st.floats(0, 2)),
)
_ROUNDING = 2e-5  # the slack of the harness: float32 rounding in domain units


@st.composite
def _cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, Linf | L2]:
    """A point of the ball and the box, and the 8-bit picture it belongs to."""
    ball, dtype = draw(_BALLS), draw(_DTYPES)
    shape = (draw(st.integers(1, 3)), 3, draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = torch.randint(0, 256, shape, generator=generator)
    center = levels.to(dtype) / 255
    spread = draw(st.sampled_from([0.001, 0.02, 0.3]))
    z = center + spread * torch.randn(shape, generator=generator).to(dtype)
    return PIXELS.clip(ball.project(z, center)), center, ball


@given(_cases())
def test_saved_pictures_stay_in_ball_and_box(case) -> None:
    z, center, ball = case
    saved = PIXELS.rounded(z, center, ball)
    assert (ball.size(saved - center) <= ball.epsilon + _ROUNDING).all()
    assert saved.min() >= 0
    assert saved.max() <= 1
    assert saved.dtype == z.dtype


@given(_cases())
def test_saved_pictures_have_256_levels_and_survive_storage(case) -> None:
    saved = PIXELS.rounded(*case)
    stored = (saved * 255).round().to(torch.uint8)
    assert torch.equal(stored.to(saved.dtype) / 255, saved)


@given(_cases())
def test_saving_twice_is_saving_once(case) -> None:
    z, center, ball = case
    saved = PIXELS.rounded(z, center, ball)
    assert torch.equal(PIXELS.rounded(saved, center, ball), saved)


@given(_cases())
def test_saving_moves_no_pixel_by_more_than_a_level_nor_past_the_original(case) -> None:
    z, center, ball = case
    saved = PIXELS.rounded(z, center, ball)
    assert ((saved - z).abs() * 255 < 1 + 1e-3).all()
    assert (((saved - center) * (z - center)) >= -1e-9).all()


@given(_cases())
def test_saving_rounds_to_the_nearest_level_where_there_is_room(case) -> None:
    z, center, _ = case
    roomy = L2(epsilon=1e3)
    assert ((PIXELS.rounded(z, center, roomy) - z).abs() * 255 <= 0.5 + 1e-3).all()


@given(_cases())
def test_whole_levels_lose_nothing(case) -> None:
    _, center, _ = case
    corner = PIXELS.clip(center + 8 / 255)
    saved = PIXELS.rounded(corner, center, Linf(epsilon=8 / 255))
    assert torch.allclose(saved, corner, atol=1e-6)


def test_an_l2_ball_keeps_most_of_a_change_below_half_a_level() -> None:
    # Rounding towards the original would keep nothing of it.
    center = torch.full((1, 3, 8, 8), 128 / 255)
    ball = L2(epsilon=0.6 / 255 * 192**0.5)
    saved = PIXELS.rounded(center + 0.6 / 255, center, ball)
    assert ball.size(saved - center).item() == pytest.approx(ball.epsilon, rel=0.02)


def test_other_domains_and_unsaved_originals_are_left_alone(rng) -> None:
    z, center = (torch.from_numpy(rng.random((2, 3, 4, 4))) for _ in range(2))
    ball = Linf(epsilon=1)
    assert torch.equal(PIXELS.rounded(z, center, ball), z)
    latent = Domain("latent", -10, 10)
    assert torch.equal(latent.rounded(z, (center * 255).round() / 255, ball), z)


def test_one_unsaved_original_does_not_spare_the_others(rng) -> None:
    z, center = (torch.from_numpy(rng.random((2, 3, 4, 4))) for _ in range(2))
    center[1] = (center[1] * 255).round() / 255
    saved = PIXELS.rounded(z, center, Linf(epsilon=1))
    assert torch.equal(saved[0], z[0])
    assert not torch.equal(saved[1], z[1])


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (torch.zeros(0, 3, 4, 4), ShapeError),
        (torch.zeros(3), ShapeError),
        (torch.zeros(1, 3, dtype=torch.uint8), ShapeError),
        (torch.full((1, 3), float("nan")), NumericalError),
        (torch.full((1, 3), 255.0), NumericalError),
        (torch.full((1, 3), -0.1), NumericalError),
    ],
)
def test_refuses_what_is_no_batch_of_pixels(x, error) -> None:
    with pytest.raises(error):
        PIXELS.require(x)
