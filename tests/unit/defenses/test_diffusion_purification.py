import copy

import pytest
import torch

from loricate.basics.errors import ConfigError, ShapeError, UnsupportedError
from loricate.core.family import EditSettings
from loricate.core.generators import sample_seeds
from loricate.defenses.diffusion_purification import DiffusionPurification
from loricate.evaluation.subjects import Pictures, Subject
from loricate.families.sd15 import SD15
from loricate.objectives.latent_shift import LatentShift
from loricate.testing.surfaces import pictures

_SEEDS = sample_seeds(0, range(2))
_SPEC = DiffusionPurification(strength=0.5, num_inference_steps=4)


@pytest.fixture(scope="module")
def family() -> SD15:
    family = SD15.tiny()
    for module in (family.pipe.vae, family.pipe.text_encoder, family.pipe.unet):
        module.double()
    return family


def test_is_an_edit_without_prompt_and_with_draws_of_its_own(family) -> None:
    x = pictures(2, size=16)
    output = _SPEC.bind(family)(x, _SEEDS)
    settings = EditSettings(num_inference_steps=4, strength=0.5, guidance=1.0)
    edit = family.edit(["", ""], settings)
    assert not torch.equal(output, edit(x, _SEEDS))
    assert not torch.equal(output[0], _SPEC.bind(family)(x, _SEEDS[::-1])[0])


def test_gradient_is_exact_where_nothing_is_clipped(family, rng) -> None:
    purify, x = _SPEC.bind(family), pictures(2, size=16, lower=0.3, upper=0.7)
    with torch.no_grad():
        inside = purify(x, _SEEDS)
    weights = torch.from_numpy(rng.normal(size=x.shape)) * ((inside > 0.01) & (inside < 0.99))
    direction = torch.from_numpy(rng.normal(size=x.shape))
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((purify(leaf, _SEEDS) * weights).sum(), leaf)
    with torch.no_grad():
        ahead, behind = (
            (purify(x + step * direction, _SEEDS) * weights).sum() for step in (1e-6, -1e-6)
        )
    assert weights.count_nonzero() > 100
    assert torch.isclose((ahead - behind) / 2e-6, (gradient * direction).sum(), rtol=1e-5)


def test_a_subject_binds_it_to_its_own_model(family) -> None:
    other = copy.deepcopy(family.vae)
    other.decoder.conv_out.bias.data += 0.3
    x = pictures(2, size=16)
    models = (family, family.with_vae(other))
    base, hardened = (Subject("s", model, (_SPEC,)).latents(x, _SEEDS) for model in models)
    assert not torch.allclose(base, hardened)
    surface = Subject("s", family, (_SPEC,)).surface(LatentShift(), ["", ""], EditSettings())
    assert surface.is_random


def test_edits_of_a_purified_picture_keep_its_precision(family) -> None:
    seen = Pictures(pictures(2, size=32, dtype=torch.float32), ("a cat", "a dog"))
    assert _SPEC.bind(family)(seen.images, _SEEDS).dtype == torch.float32


def test_unbound_it_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="bind"):
        _SPEC(pictures(2, size=16), _SEEDS)


def test_sides_the_model_cannot_take_are_refused(family) -> None:
    with pytest.raises(ShapeError):
        _SPEC.bind(family)(pictures(2, size=13), _SEEDS)


@pytest.mark.parametrize(
    "fields",
    [
        {"strength": 0.0},
        {"strength": 1.5},
        {"strength": 0.1, "num_inference_steps": 8},
        {"num_inference_steps": 0},
    ],
)
def test_noise_that_is_none_is_refused(fields) -> None:
    with pytest.raises(ConfigError):
        DiffusionPurification(**fields)
