"""Repainted pictures are those of diffusers' own pipeline, for the same noise."""

import pytest

pytest.importorskip("diffusers")

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint

from loricate.basics.errors import NumericalError, ShapeError, UnsupportedError
from loricate.core.family import EditSettings
from loricate.core.inpainting import around_the_middle, standard_masks
from loricate.families.sd15 import SD15

pytestmark = pytest.mark.golden_live

_PROMPTS = ["a red apple", "two globes", ""]
_SEEDS = [3, 1, 4]
_SETTINGS = EditSettings(num_inference_steps=4, strength=0.5, guidance=1.0)


def _with_channels(family: SD15, channels: int) -> SD15:
    """The family with a denoiser of other input channels, weights drawn anew."""
    config = {**family.pipe.unet.config, "in_channels": channels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return family.with_module("unet", diffusers.UNet2DConditionModel.from_config(config))


@pytest.fixture(scope="module", params=[4, 9], ids=["blends", "sees the mask"])
def family(request: pytest.FixtureRequest) -> SD15:
    return _with_channels(SD15.tiny(), request.param)


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "settings",
    [
        EditSettings(num_inference_steps=6, strength=0.5, guidance=2.0),
        EditSettings(num_inference_steps=3, strength=1.0, guidance=1.0),
    ],
    ids=["half", "full strength"],
)
def test_repainting_is_diffusers_own(
    family: SD15, images, settings: EditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The two things we do otherwise: the posterior's mean, and noise by address.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, _=None: self.mode())
    noise = family._noise((4, 16, 16), _SEEDS)
    monkeypatch.setattr(inpaint, "randn_tensor", lambda *_, **__: noise)
    parts = {**family.pipe.components, "safety_checker": None, "feature_extractor": None}
    pipe = diffusers.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    masks = standard_masks(32)[[0, 1, 3]]
    expected = pipe(
        prompt=_PROMPTS,
        image=images,
        mask_image=masks,
        height=32,
        width=32,
        strength=float(settings.strength),
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=float(settings.guidance),
        output_type="pt",
    ).images
    with torch.no_grad():
        edits = family.inpaint(_PROMPTS, masks, settings)(images, _SEEDS)
    assert torch.allclose(edits, expected, atol=1e-5)
    assert (edits - images).abs().mean() > 0.05  # repainted, and not the picture itself


def test_masks_that_do_not_fit_are_refused(family: SD15, images) -> None:
    with pytest.raises(ShapeError):
        family.inpaint(_PROMPTS, around_the_middle(3, 16), _SETTINGS)(images, _SEEDS)
    with pytest.raises(ShapeError):
        family.inpaint(_PROMPTS, around_the_middle(2, 32), _SETTINGS)(images, _SEEDS)
    with pytest.raises(NumericalError):
        family.inpaint(_PROMPTS, around_the_middle(3, 32) * 255, _SETTINGS)


def test_other_denoisers_cannot_repaint(images) -> None:
    odd = _with_channels(SD15.tiny(), 7)
    with pytest.raises(UnsupportedError) as caught:
        odd.inpaint(_PROMPTS, around_the_middle(3, 32), _SETTINGS)(images, _SEEDS)
    assert "7 input channels" in str(caught.value)
