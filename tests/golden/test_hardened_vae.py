"""The files of a run, in the hands of PEFT and diffusers, are the model that was trained."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

import diffusers
import peft
import torch

from loricate.families.sd15 import SD15
from loricate.integrity.digest import digest
from loricate.recipes._artifacts import verify, write_artifacts
from loricate.surfaces.attach import attach, target_layers
from loricate.testing.pipelines import write_tiny_model

pytestmark = pytest.mark.golden_live

_TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def _torch_generator_is_lent():
    # PEFT initializes its layers from the global generator.
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny", n_calibration=1, n_test=1)


@pytest.fixture(scope="module")
def x():
    return 2 * torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1


@pytest.fixture(scope="module")
def hardened(model):
    """A family with an update on every encoder layer, of ranks 1 to 3."""
    family = SD15.load(model)
    layers = target_layers(family.vae, family.encoder_prefixes)
    ranks = {path: 1 + i % 3 for i, path in enumerate(layers)}
    attached = attach(family.vae, ranks, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for update in attached.updates.values():
            update.b.copy_(0.2 * torch.randn(update.b.shape, generator=generator))
    return family, attached


def _latents(vae, x):
    with torch.no_grad():
        return vae.encode(x).latent_dist.mean


@pytest.fixture(scope="module")
def expected(hardened, x):
    return _latents(hardened[0].vae, x)


@pytest.fixture(scope="module")
def out(hardened, model, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("out")
    write_artifacts(out, model, *hardened)
    return out


def test_the_update_matters(model, x, expected) -> None:
    assert (_latents(SD15.load(model).vae, x) - expected).abs().max() > 0.01


def test_peft_loads_the_adapter(model, x, expected, out) -> None:
    loaded = peft.PeftModel.from_pretrained(SD15.load(model).vae, out / "adapter")
    found = _latents(loaded.get_base_model(), x)
    assert torch.allclose(found, expected, atol=_TOLERANCE)


def test_diffusers_loads_the_adapter(model, x, expected, out) -> None:
    vae = SD15.load(model).vae
    vae.load_lora_adapter(
        out / "adapter", weight_name="adapter_model.safetensors", prefix="base_model.model"
    )
    assert torch.allclose(_latents(vae, x), expected, atol=_TOLERANCE)


def test_diffusers_loads_the_merged_autoencoder(x, expected, out) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(out / "vae")
    assert vae.dtype == torch.float32
    assert torch.allclose(_latents(vae, x), expected, atol=_TOLERANCE)


def test_a_pipeline_takes_the_merged_autoencoder(model, out) -> None:
    vae = diffusers.AutoencoderKL.from_pretrained(out / "vae")
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        model, vae=vae, safety_checker=None, requires_safety_checker=False
    )
    assert pipe.vae is vae


def test_verification_finds_nothing_wrong_and_sees_a_changed_base(model, out) -> None:
    family = SD15.load(model)
    before = digest(family.vae.state_dict())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    merged = diffusers.AutoencoderKL.from_pretrained(out / "vae")
    attached = attach(family.vae, {"encoder.conv_in": 1}, seed=0)
    with torch.no_grad():
        attached.updates["encoder.conv_in"].b.fill_(0.1)
        family.vae.decoder.conv_out.bias.add_(1e-3)
    found = verify(family, attached, merged, before, images)
    assert found.base_digest_after != before
    assert found.gain_zero_identical
    assert found.merged_max_difference > found.merged_tolerance
    assert not found.holds
