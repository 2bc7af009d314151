"""Prompt surfaces of a real pipeline against what the pipeline itself computes."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("torch")

import torch

from loricate.attacks.charmer import Charmer
from loricate.basics.errors import ConfigError
from loricate.core.family import EditSettings
from loricate.core.generators import generators, sample_seeds
from loricate.core.text_budgets import CharBudget
from loricate.families.sd15 import SD15
from loricate.objectives.diffusion_classifier import DiffusionClassifier
from loricate.objectives.embedding_shift import EmbeddingShift

_PROMPTS = ["a cat", "dog"]
_SETTINGS = EditSettings(num_inference_steps=2, guidance=2.0)


@pytest.fixture(scope="module")
def family() -> SD15:
    return SD15.tiny()


@torch.no_grad()
def test_hidden_states_are_those_of_the_pipeline(family) -> None:
    pipe = family.pipe
    expected, _ = pipe.encode_prompt(_PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(family.text_encoder()(_PROMPTS, [0, 1]), expected)


@torch.no_grad()
def test_others_may_encode_while_a_surface_does(family) -> None:
    surface, encoder = family.text_encoder(), family.module("text_encoder")
    tokens = surface.tokens(["dog"])
    expected, seen = encoder(tokens)[0], []

    def meanwhile(*_: object) -> None:
        handle.remove()
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(torch.no_grad()(lambda: encoder(tokens)[0].clone())).result())

    handle = encoder.final_layer_norm.register_forward_hook(meanwhile)
    surface.from_embeddings(surface.embed(["a cat"]), [0])
    assert torch.equal(seen[0], expected)


@torch.no_grad()
def test_a_short_window_gives_the_same_states_at_the_places_it_has(family) -> None:
    short = family.text_encoder(window=9)
    assert short.max_tokens == 7
    full = family.text_encoder()(_PROMPTS, [0, 1])
    assert torch.allclose(short(_PROMPTS, [0, 1]), full[:, :9], atol=1e-6)
    with pytest.raises(ConfigError, match="at most 7 tokens"):
        short(["a longer one"], [0])


@torch.no_grad()
def test_pictures_are_those_the_family_generates(family) -> None:
    for guidance in (1.0, 2.0):
        settings = EditSettings(num_inference_steps=2, guidance=guidance)
        surface = family.generation(settings)
        assert surface.is_random
        pictures = surface(_PROMPTS, [3, 4])
        assert torch.equal(pictures, family.generate(_PROMPTS, [3, 4], settings))


def test_pictures_have_a_gradient_in_the_embeddings(family) -> None:
    surface = family.generation(_SETTINGS)
    x = surface.embed(_PROMPTS).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(surface.from_embeddings(x, [0, 1]).sum(), x)
    assert gradient.flatten(1).any(1).all()


def test_the_slope_is_that_of_the_states(family) -> None:
    encoder = copy.deepcopy(family.module("text_encoder")).double()
    surface = family.with_module("text_encoder", encoder).text_encoder()
    x = surface.embed(_PROMPTS).detach().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()

    def total(z):
        return (surface.from_embeddings(z, [0, 1]) * weights).sum()

    (gradient,) = torch.autograd.grad(total(x), x)
    step = 1e-6 * direction
    slope = (total(x.detach() + step) - total(x.detach() - step)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_ids_are_written_and_read_back(family) -> None:
    surface = family.text_encoder()
    assert surface.text(surface.tokens(["a cat", "dog 7"])) == ["a cat", "dog 7"]
    for text, token in zip(
        surface.text(surface.writable[:, None]), surface.writable.tolist(), strict=True
    ):
        beside = f"{text} a"
        assert surface.tokens([beside])[0, 1] == token


def test_prompts_are_measured_and_refused_where_they_are_too_long(family) -> None:
    surface = family.text_encoder()
    assert (surface.max_tokens, surface.n_tokens("x" * 40)) == (14, 40)
    with pytest.raises(ConfigError, match="at most 14 tokens, not 40"):
        surface(["a", "x" * 40], [0, 1])
    with pytest.raises(ConfigError, match=r"prompts\.1: .* visible character"):
        Charmer()(surface, EmbeddingShift(), CharBudget(), ["a", ""], seeds=[0, 1])


def test_the_errors_of_denoising_are_those_by_hand(family) -> None:
    pipe, x = family.pipe, torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    surface = family.denoising(x, n_levels=2)
    errors = surface(_PROMPTS, [5, 6])
    assert errors.shape == (2, 2, 4, 16, 16)
    latents = family.vae_encoder()(x, [0, 0])
    hidden = family.text_encoder()(_PROMPTS, [0, 0])
    noise = torch.zeros_like(latents)
    for row, g in enumerate(generators([5, 6], "noise", 1)):
        noise[row] = torch.randn(latents.shape[1:], generator=g)
    alpha = pipe.scheduler.alphas_cumprod[750]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    predicted = pipe.unet(noisy, 750, encoder_hidden_states=hidden).sample
    assert torch.allclose(errors[:, 1], predicted - noise, atol=1e-5)
    assert torch.allclose(surface.rows([1])(["dog"], [6])[0], errors[1], atol=1e-5)


def test_a_prompt_is_found_that_describes_a_picture_better(family) -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    surface, seeds = family.denoising(x, n_levels=1), sample_seeds(0, range(2))
    attack = Charmer(n_places=1, beyond_ascii=False)
    result = attack(surface, DiffusionClassifier(), CharBudget(edits=1), _PROMPTS, seeds=seeds)
    assert (result.value > result.clean_value).all()


def test_another_module_leaves_the_rest_shared(family) -> None:
    twin = copy.deepcopy(family.module("text_encoder"))
    other = family.with_module("text_encoder", twin)
    assert other.module("text_encoder") is twin
    assert other.module("unet") is family.module("unet")
    assert other.vae is family.vae
    assert not any(p.requires_grad for p in twin.parameters())
