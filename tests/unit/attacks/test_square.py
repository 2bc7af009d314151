"""Random squares: their schedule, their shapes, and what they find without a gradient."""

import pytest
import torch

from loricate.attacks.random_noise import RandomNoise
from loricate.attacks.square import Square, _bump, _side, _Window
from loricate.basics.errors import ShapeError
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.domain import Domain
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_encoder, pictures

_SEEDS = range(4)


def _raw(attack: Attack, norm: str, x: torch.Tensor, function=None) -> torch.Tensor:
    surface = ModuleSurface(function or conv_encoder())
    threat = ThreatModel(ball=ball(norm, "16/255"))
    return attack(surface, LatentShift(), threat, x, seeds=_SEEDS).raw


def _shift(raw: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    encoder = conv_encoder()
    with torch.no_grad():
        return (encoder(raw) - encoder(x)).flatten(1).square().sum(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_beats_as_many_random_points(norm: str) -> None:
    x = pictures(len(_SEEDS))
    found = _shift(_raw(Square(queries=200), norm, x), x)
    noise = _shift(_raw(RandomNoise(n_restarts=200), norm, x), x)
    assert (found > noise).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_queries_are_stronger(norm: str) -> None:
    x = pictures(len(_SEEDS))
    few, many = (_shift(_raw(Square(queries=n), norm, x), x).mean() for n in (50, 400))
    assert many > few


def test_needs_no_gradient() -> None:
    x = pictures(len(_SEEDS))
    raw = _raw(Square(queries=20), "linf", x, lambda z: (z.detach() * 8).round())
    assert not torch.equal(raw, x)


def test_every_pixel_is_at_the_border_of_ball_or_box() -> None:
    x = pictures(len(_SEEDS))
    raw = _raw(Square(queries=100), "linf", x)
    away = torch.minimum(*((raw - (x + s * 16 / 255).clamp(0, 1)).abs() for s in (1, -1)))
    assert away.max() < 1e-12


def test_the_schedule_halves_where_the_paper_says() -> None:
    attack = Square(queries=10_000)
    shares = [attack._share(query) for query in (10, 11, 50, 51, 8000, 8001)]
    assert shares == [0.8, 0.4, 0.4, 0.2, 0.8 / 256, 0.8 / 512]
    # A tenth of the queries pass the same stations ten times as fast.
    assert Square(queries=1000)._share(6) == 0.2


def test_sides_fit_the_picture() -> None:
    x = torch.zeros(1, 3, 8, 12)
    assert [_side(share, 1, x) for share in (1.0, 0.25, 0.01, 0.0)] == [8, 5, 1, 1]
    assert _side(0.0, 3, x) == 3


def test_a_bump_is_a_hill_beside_a_hole() -> None:
    bump = _bump(4, torch.zeros(1, dtype=torch.float64))
    assert float(bump.norm()) == pytest.approx(1)
    assert (bump[:2] > 0).all()
    assert torch.equal(bump[2:], -bump[:2])
    # One rectangle around the middle, and half of it, then a quarter, add up.
    ratio = bump[1, 2] / bump[0, 0]
    assert float(ratio) == pytest.approx((1 + 1 / 4 + 1 / 9) / (1 / 9))


def test_a_window_lies_where_its_numbers_say() -> None:
    like = torch.zeros(2, 3, 4, 6)
    window = _Window.at(torch.tensor([[0.0, 0.0], [0.999, 0.999]]), 2, like)
    first, last = window.mask.squeeze(1).nonzero().view(2, 4, 3)[..., 1:].unbind()
    assert first.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert last.tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]
    pattern = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert window.holding(pattern)[1, 0, 2:, 4:].tolist() == pattern.tolist()


def test_what_is_no_picture_is_refused() -> None:
    surface = ModuleSurface(lambda z: z, Domain("embedding", -10.0, 10.0))
    threat = ThreatModel(ball=ball("linf", 0.1))
    with pytest.raises(ShapeError):
        Square()(surface, LatentShift(), threat, torch.zeros(1, 5, 7), seeds=[0])
