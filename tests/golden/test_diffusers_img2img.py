"""Edits and pictures are those of diffusers' own pipelines, for the same noise."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import diffusers
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as img2img

from loricate.core.family import EditSettings
from loricate.families.sd15 import SD15

pytestmark = pytest.mark.golden_live

_PROMPTS = ["a red apple", "two globes", ""]
_SEEDS = [3, 1, 4]
_TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def family(request: pytest.FixtureRequest) -> SD15:
    pipe = SD15.tiny().pipe
    config = {**pipe.scheduler.config, "prediction_type": request.param}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(config)
    return SD15(pipe)


@pytest.fixture(scope="module")
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _noise(family: SD15):
    return family._noise((4, 16, 16), _SEEDS)


@pytest.mark.parametrize(
    "settings",
    [
        EditSettings(num_inference_steps=8, strength=0.5, guidance=2.0),
        EditSettings(num_inference_steps=5, strength=0.75, guidance=1.0),
        EditSettings(num_inference_steps=3, strength=1.0, guidance=7.5),
    ],
    ids=["half", "unguided", "full strength"],
)
def test_an_edit_is_image_to_image(
    family: SD15, images, settings: EditSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The two things we do otherwise: the posterior's mean, and noise by address.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, _=None: self.mode())
    monkeypatch.setattr(img2img, "randn_tensor", lambda *_, **__: _noise(family))
    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **family.pipe.components, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(
        prompt=_PROMPTS,
        image=images,
        strength=float(settings.strength),
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=float(settings.guidance),
        output_type="pt",
    ).images
    with torch.no_grad():
        edits = family.edit(_PROMPTS, settings)(images, _SEEDS)
    assert torch.allclose(edits, expected, atol=_TOLERANCE)
    assert (edits - images).abs().mean() > 0.05  # an edit, and not the picture itself


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_picture_is_text_to_image(family: SD15, guidance: float) -> None:
    settings = EditSettings(num_inference_steps=4, guidance=guidance)
    expected = family.pipe(
        prompt=_PROMPTS,
        latents=_noise(family),
        num_inference_steps=4,
        guidance_scale=guidance,
        height=32,
        width=32,
        output_type="pt",
    ).images
    assert torch.allclose(family.generate(_PROMPTS, _SEEDS, settings), expected, atol=_TOLERANCE)


def test_encoding_and_decoding_are_the_autoencoders(family: SD15, images) -> None:
    vae = family.vae
    with torch.no_grad():
        mean = vae.encode(2 * images - 1).latent_dist.mode()
        latents = family.vae_encoder()(images, _SEEDS)
        reconstruction = family.autoencoder()(images, _SEEDS)
        assert torch.equal(latents, mean * vae.config.scaling_factor)
        assert torch.allclose(reconstruction, vae.decode(mean).sample / 2 + 0.5, atol=_TOLERANCE)
