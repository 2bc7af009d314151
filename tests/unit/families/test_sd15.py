"""Stable Diffusion as surfaces: scaling, seeds, refusals, loading."""

import copy

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch
from safetensors.torch import save_file

from loricate.basics.errors import PrerequisiteError, ShapeError
from loricate.core.family import EditSettings
from loricate.families.sd15 import SD15
from loricate.integrity.digest import digest
from loricate.testing.single_files import write_single_file

_SETTINGS = EditSettings(num_inference_steps=4, strength=0.5, guidance=2.0)
_PROMPTS = ["a", "b", "c"]


@pytest.fixture(scope="module")
def family() -> SD15:
    return SD15.tiny()


@pytest.fixture(scope="module")
def x():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _surfaces(family: SD15):
    return {
        "encoder": family.vae_encoder(),
        "posterior": family.vae_posterior(),
        "autoencoder": family.autoencoder(),
        "edit": family.edit(_PROMPTS, _SETTINGS),
    }


def test_tiny_is_tiny_and_always_the_same(family) -> None:
    modules = (family.pipe.vae, family.pipe.unet, family.pipe.text_encoder)
    assert sum(p.numel() for m in modules for p in m.parameters()) < 300_000
    assert not any(p.requires_grad for m in modules for p in m.parameters())
    assert not any(m.training for m in modules)
    assert digest(SD15.tiny().vae.state_dict()) == digest(family.vae.state_dict())
    assert family.image_size == 32


@pytest.mark.parametrize("name", ["encoder", "posterior", "autoencoder", "edit"])
def test_every_surface_has_finite_pixel_gradients(family, x, name: str) -> None:
    z = x.clone().requires_grad_(True)
    output = _surfaces(family)[name](z, [1, 2, 3])
    (gradient,) = torch.autograd.grad(output.square().sum(), z)
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("name", ["encoder", "posterior", "autoencoder", "edit"])
def test_rows_do_not_depend_on_their_batch(family, x, name: str) -> None:
    with torch.no_grad():
        together = _surfaces(family)[name](x, [1, 2, 3])
        family_of_one = family.edit(["b"], _SETTINGS) if name == "edit" else _surfaces(family)[name]
        alone = family_of_one(x[1:2], [2])
    assert torch.allclose(alone[0], together[1], atol=1e-5)


def test_latents_are_scaled_and_the_posterior_holds_them(family, x) -> None:
    with torch.no_grad():
        posterior = family.vae_posterior()(x, [0] * 3)
        latents = family.vae_encoder()(x, [0] * 3)
    assert latents.shape == (3, 4, 16, 16)
    assert torch.equal(posterior[:, :4], latents)
    assert (posterior[:, 4:] > 0).all()


def test_edits_follow_seeds_and_prompts(family, x) -> None:
    with torch.no_grad():
        edit = family.edit(_PROMPTS, _SETTINGS)
        first, again, other = edit(x, [1, 2, 3]), edit(x, [1, 2, 3]), edit(x, [1, 2, 4])
        reworded = family.edit(["z", "b", "c"], _SETTINGS)(x, [1, 2, 3])
    assert edit.is_random
    assert torch.equal(first, again)
    changed = (first != other).flatten(1).any(1)
    assert changed.tolist() == [False, False, True]
    assert (first != reworded).flatten(1).any(1).tolist() == [True, False, False]
    assert first.min() >= 0
    assert first.max() <= 1


def test_strength_zero_is_the_reconstruction(family, x) -> None:
    settings = EditSettings(num_inference_steps=4, strength=0.0)
    with torch.no_grad():
        edited = family.edit(_PROMPTS, settings)(x, [1, 2, 3])
        assert torch.allclose(edited, family.autoencoder()(x, [0] * 3).clamp(0, 1), atol=1e-6)


def test_pictures_belong_to_their_seeds(family) -> None:
    pictures = family.generate(_PROMPTS, [1, 2, 3], _SETTINGS)
    assert pictures.shape == (3, 3, 32, 32)
    alone = family.generate(["c"], [3], _SETTINGS)
    assert torch.allclose(alone[0], pictures[2], atol=1e-5)


def test_another_autoencoder_shares_everything_else(family, x) -> None:
    vae = copy.deepcopy(family.vae)
    vae.encoder.conv_in.weight.data.mul_(1.5)
    twin = family.with_vae(vae)
    assert twin.vae is vae
    assert twin.pipe.unet is family.pipe.unet
    with torch.no_grad():
        assert not torch.equal(twin.vae_encoder()(x, [0] * 3), family.vae_encoder()(x, [0] * 3))


def test_the_denoiser_sees_latents(family, x) -> None:
    with torch.no_grad():
        latents = family.vae_encoder()(x, [0] * 3)
        features = family.denoiser_features(latents)
    assert features.shape == (3, 8, 16, 16)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32), (1, 3, 31, 32), (1, 4, 32, 32)])
def test_what_is_no_rgb_picture_of_the_right_size_is_refused(family, shape) -> None:
    for surface in (family.vae_encoder(), family.vae_posterior(), family.edit(["a"], _SETTINGS)):
        with pytest.raises(ShapeError):
            surface(torch.zeros(shape), [0])


def test_half_precision_files_are_attacked_in_single(family, x, tmp_path) -> None:
    folder = tmp_path / "half"
    SD15.tiny().pipe.to(torch.float16).save_pretrained(folder)
    loaded = SD15.load(folder)
    kinds = {p.dtype for m in (loaded.vae, loaded.pipe.text_encoder) for p in m.parameters()}
    assert kinds == {torch.float32}
    with torch.no_grad():
        difference = loaded.vae_encoder()(x, [0] * 3) - family.vae_encoder()(x, [0] * 3)
    assert 0 < difference.abs().max() < 1e-2


def test_no_pipeline_no_family(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "empty", tmp_path / "none.safetensors", tmp_path / "none"):
        with pytest.raises(PrerequisiteError) as caught:
            SD15.load(source)
        assert str(source) in str(caught.value)


def test_a_single_file_is_read_with_the_configs_beside_it(tmp_path) -> None:
    pipe = write_single_file(tmp_path)
    loaded = SD15.load(tmp_path / "one.safetensors")
    for component in ("unet", "vae", "text_encoder"):
        expected = getattr(pipe, component).state_dict()
        found = getattr(loaded.pipe, component).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert loaded.image_size == 64


def test_a_single_file_of_something_else_is_refused(tmp_path) -> None:
    write_single_file(tmp_path)
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(PrerequisiteError, match="configs and the tokenizer"):
        SD15.load(tmp_path / "other.safetensors")
