import io

import numpy as np
import pytest
import torch
from PIL import Image

from loricate.attacks.pgd import PGD
from loricate.basics.errors import ConfigError, ShapeError
from loricate.core.balls import Linf
from loricate.core.threat import ThreatModel
from loricate.defenses._smooth_jpeg import _soft_round, smooth_jpeg
from loricate.defenses.jpeg import JPEG, _tables
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.defended import DefendedSurface
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_encoder, pictures


def _pictures(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Smooth pictures with a little texture, as photographs have."""
    coarse = torch.from_numpy(rng.random((shape[0], shape[1], 4, 4)))
    smooth = torch.nn.functional.interpolate(coarse, shape[2:], mode="bilinear")
    return (smooth + torch.from_numpy(rng.normal(0, 0.02, shape))).clamp(0, 1).float()


def _by_pillow(picture: torch.Tensor, quality: int) -> torch.Tensor:
    pixels = (picture * 255).round().to(torch.uint8).movedim(0, -1).squeeze(-1).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=2)
    read = np.array(Image.open(file)).reshape(*picture.shape[1:], -1)
    return torch.from_numpy(read).movedim(-1, 0) / 255


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bpda", ["smooth", "identity"])
def test_forward_is_the_file(channels: int, bpda: str, rng) -> None:
    x = _pictures(rng, 2, channels, 20, 13).requires_grad_()
    output = JPEG(quality=60, bpda=bpda)(x, [0, 0])
    for got, picture in zip(output, x.detach(), strict=True):
        assert torch.equal(got, _by_pillow(picture, 60))


def test_identity_backward_is_the_identity(rng) -> None:
    x = _pictures(rng, 1, 3, 16, 16).requires_grad_()
    weights = torch.from_numpy(rng.normal(size=x.shape)).float()
    (JPEG(bpda="identity")(x, [0]) * weights).sum().backward()
    assert torch.equal(x.grad, weights)


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("channels", [1, 3])
def test_smooth_codec_with_hard_rounding_is_the_real_codec(
    channels: int, quality: int, rng, monkeypatch
) -> None:
    monkeypatch.setattr("loricate.defenses._smooth_jpeg._soft_round", torch.round)
    x = (_pictures(rng, 2, channels, 24, 33) * 255).round() / 255
    real = JPEG(quality=quality)(x, [0, 0])
    error = (smooth_jpeg(x, _tables(quality)).clamp(0, 1) - real).abs() * 255
    # The codec computes in integers; color doubled another way would be off by four levels.
    assert error.mean() < 1.7


def test_smooth_backward_is_the_derivative_of_the_smooth_codec(rng) -> None:
    x = _pictures(rng, 1, 3, 16, 16).double().requires_grad_()
    tables = _tables(75)
    direction = torch.from_numpy(rng.normal(size=x.shape))
    weights = torch.from_numpy(rng.normal(size=x.shape))
    (JPEG()(x, [0]) * weights).sum().backward()
    step = 1e-7
    ahead, behind = (smooth_jpeg(x.detach() + s * direction, tables) for s in (step, -step))
    expected = ((ahead - behind) * weights).sum() / (2 * step)
    assert (x.grad * direction).sum().item() == pytest.approx(expected.item(), rel=1e-4)


def test_smooth_rounding_meets_rounding_at_the_levels_and_itself_between_them() -> None:
    x = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    y = _soft_round(x)
    assert torch.allclose(y[::1000], torch.arange(-3.0, 4.0, dtype=torch.float64))
    assert ((y - x).abs() <= 0.5).all()
    slopes = y.diff() / x.diff()
    assert (slopes > 0.29).all()
    assert (slopes < 2.5).all()  # a jump would be as steep as the grid is fine


def test_attacks_get_farther_with_the_smooth_codec_than_with_the_identity() -> None:
    x = pictures(4, size=16)
    found = []
    for bpda in ("smooth", "identity"):
        surface = DefendedSurface(ModuleSurface(conv_encoder()), (JPEG(quality=50, bpda=bpda),))
        threat = ThreatModel(ball=Linf(epsilon="8/255"))
        result = PGD(steps=10)(surface, LatentShift(), threat, x, seeds=range(4))
        found.append(result.value.mean().item())
    assert found[0] > 1.1 * found[1]


def test_luminance_table_at_quality_50_is_the_standards() -> None:
    luminance, _ = _tables(50)
    assert luminance[0].tolist() == [16, 11, 10, 16, 24, 40, 51, 61]
    assert luminance[:, 0].tolist() == [16, 12, 14, 14, 18, 24, 49, 72]


def test_less_quality_is_a_larger_error(rng) -> None:
    x = _pictures(rng, 2, 3, 32, 32)
    errors = [(JPEG(quality=q)(x, [0, 0]) - x).square().mean().item() for q in (10, 50, 95)]
    assert errors == sorted(errors, reverse=True)


def test_refuses_what_is_no_picture() -> None:
    with pytest.raises(ShapeError):
        JPEG()(torch.zeros(1, 4, 8, 8), [0])
    with pytest.raises(ConfigError) as caught:
        JPEG(quality=100)
    assert caught.value.problems[0].key == "quality"
