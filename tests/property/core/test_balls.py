"""Balls: projection, samples and steepest steps, against their definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.errors import ConfigError
from loricate.basics.spec import Spec, from_table, to_table
from loricate.core.balls import L2, Linf, ball
from loricate.core.generators import generators
from loricate.core.threat import ThreatModel

_TOLERANCE = 1e-12
_balls = st.one_of(st.builds(Linf, epsilon=st.floats(0, 1)), st.builds(L2, epsilon=st.floats(0, 5)))
_shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))


@st.composite
def _points(draw: st.DrawFn, count: int) -> list[torch.Tensor]:
    shape, seed = draw(_shapes), draw(st.integers(0, 2**32))
    scale = 10.0 ** draw(st.integers(-3, 2))
    generator = torch.Generator().manual_seed(seed)
    return [
        scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)
    ]


@given(_balls, _points(2))
def test_projection_is_feasible_and_idempotent(ball, points) -> None:
    z, center = points
    inside = ball.project(z, center)
    assert (ball.size(inside - center) <= ball.epsilon + _TOLERANCE).all()
    assert torch.allclose(ball.project(inside, center), inside, atol=_TOLERANCE, rtol=0)


@given(_balls, _points(2))
def test_projection_leaves_inner_points_alone(ball, points) -> None:
    delta, center = points
    room = ball.epsilon / ball.size(delta).clamp(min=1).view(-1, 1, 1, 1)
    inner = center + 0.99 * room * delta / delta.flatten(1).abs().amax(1).clamp(min=1).view(
        -1, 1, 1, 1
    )
    assert torch.allclose(ball.project(inner, center), inner, atol=_TOLERANCE, rtol=0)


@given(_balls, _points(3))
def test_projection_never_moves_points_apart(ball, points) -> None:
    a, b, center = points
    before = (a - b).flatten(1).norm(dim=1)
    after = (ball.project(a, center) - ball.project(b, center)).flatten(1).norm(dim=1)
    assert (after <= before + _TOLERANCE).all()


@given(_balls, _points(3))
def test_projection_is_the_nearest_point(ball, points) -> None:
    z, center, other = points
    rival = ball.project(other, center)
    nearest = (z - ball.project(z, center)).flatten(1).norm(dim=1)
    assert (nearest <= (z - rival).flatten(1).norm(dim=1) + _TOLERANCE).all()


@given(_balls, _points(3))
def test_projection_into_a_box_is_the_nearest_point_of_both(ball, points) -> None:
    z, center, other = points[0], points[1].clamp(0, 1), points[2]
    inside = ball.project_into_box(z, center, 0.0, 1.0)
    assert (ball.size(inside - center) <= ball.epsilon + _TOLERANCE).all()
    assert torch.equal(inside, inside.clamp(0, 1))
    rival = ball.project_into_box(other, center, 0.0, 1.0)
    # The angle at the nearest point of a convex set is never acute.
    inward = ((z - inside) * (rival - inside)).flatten(1).sum(1)
    assert (inward <= 1e-5 * z.flatten(1).norm(dim=1) + _TOLERANCE).all()


@pytest.mark.parametrize("epsilon", [1e-6, 1e-4, 0.1])
def test_a_box_takes_nothing_for_clamped_that_single_precision_rounded(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(0)
    center, z = (torch.rand(4, 3, 8, 8, generator=generator) for _ in "cz")
    inside = L2(epsilon=epsilon).project_into_box(z, center, 0.0, 1.0)
    # Rounding of a coordinate near 1, over 192 coordinates.
    assert (L2(epsilon=1).size(inside - center) <= epsilon + 6e-8 * 192**0.5).all()


@given(_balls, _points(2))
def test_a_box_far_away_changes_nothing(ball, points) -> None:
    z, center = points
    boxed = ball.project_into_box(z, center, -1e6, 1e6)
    assert torch.allclose(boxed, ball.project(z, center), atol=_TOLERANCE, rtol=1e-9)


@given(_balls, _points(2), st.sampled_from([1.0, 1e-30]))
def test_steepest_attains_the_dual_norm_at_unit_size(ball, points, scale) -> None:
    gradient, rival = scale * points[0], points[1]
    step = ball.steepest(gradient)
    dual = 1 if isinstance(ball, Linf) else 2
    gain = (gradient * step).flatten(1).sum(1)
    assert torch.allclose(ball.size(step), torch.ones(len(step), dtype=step.dtype))
    assert torch.allclose(gain, gradient.flatten(1).norm(p=dual, dim=1), rtol=1e-9, atol=0)
    rival = rival / ball.size(rival).view(-1, 1, 1, 1)
    assert (gain >= (gradient * rival).flatten(1).sum(1) - scale * _TOLERANCE).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steepest_of_nothing_is_nothing_and_of_little_is_a_full_step(norm, dtype) -> None:
    little = torch.full((1, 1, 2, 2), 1e-36, dtype=dtype)
    steps = ball(norm, 1.0).steepest(torch.cat([0 * little, little]))
    assert not steps[0].any()
    assert ball(norm, 1.0).size(steps[1:]).item() == pytest.approx(1.0)


@given(_balls, _points(1), st.integers(0, 2**32))
def test_samples_lie_inside_and_noise_at_full_radius(ball, points, seed) -> None:
    (center,) = points
    seeds = [seed + row for row in range(len(center))]
    inner = ball.sample(center, generators(seeds)) - center
    border = ball.surface_sample(center, generators(seeds)) - center
    slack = 1e-6 * (1 + float(center.abs().max()))
    assert (ball.size(inner) <= ball.epsilon + slack).all()
    assert ((ball.size(border) - ball.epsilon).abs() <= slack).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_samples_fill_the_ball_uniformly(norm, seed) -> None:
    # In two dimensions half of the volume lies within radius epsilon / sqrt(2).
    center = torch.zeros(2000, 1, 1, 2)
    inside = ball(norm, 0.5).sample(center, generators([seed + row for row in range(2000)]))
    share = (ball(norm, 0.5).size(inside) <= 0.5 / 2**0.5).double().mean().item()
    assert share == pytest.approx(0.5, abs=0.05)  # more than four standard deviations


@given(_balls, _points(1), st.integers(0, 2**32))
def test_a_sample_does_not_depend_on_its_batch(ball, points, seed) -> None:
    (center,) = points
    seeds = [seed + row for row in range(len(center))]
    for draw in (ball.sample, ball.surface_sample):
        together = draw(center, generators(seeds, "x"))
        for row, own in enumerate(seeds):
            alone = draw(center[row : row + 1], generators([own], "x"))
            assert torch.equal(alone[0], together[row])


@given(_balls, st.integers(1, 4))
def test_a_threat_model_survives_a_table(ball, eot_samples) -> None:
    threat = ThreatModel(ball=ball, eot_samples=eot_samples)
    assert from_table(ThreatModel, to_table(threat)) == threat


def test_radii_are_read_as_fractions_and_checked() -> None:
    assert ball("linf", "8/255").epsilon == 8 / 255
    assert ball("l2", 8.0).epsilon == 8.0
    with pytest.raises(ConfigError) as caught:
        ball("linf", 8.0)
    assert caught.value.problems[0].nearest == "8/255"
    with pytest.raises(ConfigError) as caught:
        ball("inf", 0.1)
    assert caught.value.problems[0].nearest == "linf"
    assert isinstance(ball("l2", 1.0), Spec)
