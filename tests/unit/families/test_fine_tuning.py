"""Fine-tuning of a denoiser as a surface: what it learns, and what it leaves alone."""

import copy
from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch

from loricate.attacks.fgsm import FGSM
from loricate.attacks.pgd import PGD
from loricate.attacks.poison import Poison
from loricate.basics.errors import ConfigError, ShapeError, UnsupportedError
from loricate.core.balls import Linf
from loricate.core.family import EditSettings
from loricate.core.surrogate import FineTuneSettings
from loricate.core.threat import ThreatModel
from loricate.core.training import silent
from loricate.defenses._target import Target
from loricate.defenses._training import Schedule
from loricate.defenses.denoiser_lora import DenoiserLora
from loricate.families._fine_tuning import attention_layers
from loricate.families.sd15 import SD15
from loricate.integrity.digest import digest
from loricate.objectives.directed_noise import DirectedNoise
from loricate.surfaces.gated import attach_gated

_PROMPTS = ["a", "b"]
_SETTINGS = FineTuneSettings(rank=2, steps=12, learning_rate=2e-2, batch_size=4)
_SEEDS = [3, 4]


@pytest.fixture(scope="module")
def family() -> SD15:
    return SD15.tiny()


@pytest.fixture(scope="module")
def x():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _loss(surface, x) -> float:
    with torch.no_grad():
        return sum(float(surface.loss(x, [k, k + 100]).mean()) for k in range(20)) / 20


def test_it_learns_the_pictures_and_never_writes_to_the_base(family, x) -> None:
    before = digest(family.pipe.unet.state_dict())
    surface = family.fine_tuning(_PROMPTS, _SETTINGS)
    first = _loss(surface, x)
    surface.adapt(x, _SEEDS)
    assert _loss(surface, x) < first - 0.01
    assert digest(family.pipe.unet.state_dict()) == before
    assert not any(p.requires_grad for p in family.pipe.unet.parameters())


def test_reset_is_the_base(family, x) -> None:
    surface = family.fine_tuning(_PROMPTS, _SETTINGS)
    first = surface(x, _SEEDS)
    surface.adapt(x, _SEEDS)
    assert not torch.equal(surface(x, _SEEDS), first)
    surface.reset()
    assert torch.equal(surface(x, _SEEDS), first)
    assert len(surface.adapter()) == 0


def test_equal_seeds_give_equal_weights(family, x) -> None:
    outputs = []
    for seed, seeds in [(0, _SEEDS), (0, _SEEDS), (0, [4, 3]), (1, _SEEDS)]:
        surface = family.fine_tuning(_PROMPTS, _SETTINGS, seed=seed)
        surface.adapt(x, seeds)
        outputs.append(surface(x, [0, 0]))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[3])


def test_training_continues_where_it_left_off(family, x) -> None:
    surface = family.fine_tuning(_PROMPTS, _SETTINGS)
    surface.adapt(x, _SEEDS)
    once = surface(x, [0, 0])
    surface.adapt(x, [5, 6])
    assert not torch.equal(surface(x, [0, 0]), once)


def test_the_adapter_is_an_ordinary_one_of_the_attention_layers(family, x) -> None:
    surface = family.fine_tuning(_PROMPTS, _SETTINGS)
    surface.adapt(x, _SEEDS)
    adapter = surface.adapter()
    assert {module for _, module in adapter} == {*attention_layers(family.pipe.unet)}
    assert all(update.factors.rank <= 2 for update in adapter.values())


def test_readouts_are_residual_and_prediction_with_latents(family, x) -> None:
    noise = family.fine_tuning(_PROMPTS, _SETTINGS)(x, _SEEDS)
    residual = family.fine_tuning(_PROMPTS, _SETTINGS, readout="residual")(x, _SEEDS)
    latents = family.vae_encoder()(x, _SEEDS)
    assert torch.equal(noise[:, 4:], latents)
    added = (noise[:, :4] - residual).detach()
    assert added.std() == pytest.approx(1.0, abs=0.1)
    assert added.mean() == pytest.approx(0.0, abs=0.1)


def test_predictions_of_velocity_are_turned_into_noise(x) -> None:
    family = SD15.tiny()
    surface = family.fine_tuning(_PROMPTS, _SETTINGS, readout="residual")
    latents = family.vae_encoder()(x, [0, 0])
    surface.denoising.scheduler.register_to_config(prediction_type="v_prediction")
    draws = surface.denoising.draws(latents, _SEEDS)
    noisy = surface.denoising.noisy(latents, draws)
    velocity = surface.denoising.target(latents, draws)
    noise = surface.denoising.noise_of(velocity, noisy, draws.timesteps)
    assert torch.allclose(noise, draws.noise, atol=1e-5)


def test_without_a_gate_there_is_nothing_to_read(family, x) -> None:
    with pytest.raises(UnsupportedError) as caught:
        family.fine_tuning(_PROMPTS, _SETTINGS, readout="gated")(x, _SEEDS)
    assert caught.value.by == "a module without gates"


def test_one_prompt_a_picture(family, x) -> None:
    surface = family.fine_tuning(["a"], _SETTINGS)
    for call in (surface, surface.adapt, surface.loss):
        with pytest.raises(ShapeError):
            call(x, _SEEDS)


def test_a_module_without_attention_is_refused() -> None:
    with pytest.raises(ConfigError):
        attention_layers(torch.nn.Sequential(torch.nn.Linear(2, 2, device="meta")))


def test_poison_directs_the_noise_better_than_it_began(family, x) -> None:
    before = digest(family.pipe.unet.state_dict())
    surface = family.fine_tuning(_PROMPTS, replace(_SETTINGS, steps=2))
    threat = ThreatModel(ball=Linf(epsilon="16/255"), eot_samples=2)
    attack = Poison(rounds=2, inner=PGD(steps=4, random_start=False))
    results = [
        attack(surface, DirectedNoise(latent_weight=w), threat, x, seeds=_SEEDS) for w in (0.0, 1.0)
    ]
    for result in results:
        assert (result.value > result.clean_value).all()
    assert digest(family.pipe.unet.state_dict()) == before


def test_objectives_find_their_surface(family, x) -> None:
    surface = family.surface(DirectedNoise.surface_kind, _PROMPTS, EditSettings())
    expected = family.fine_tuning(_PROMPTS, _SETTINGS)(x, _SEEDS)
    assert torch.equal(surface(x, _SEEDS), expected)


@pytest.mark.parametrize("on_latents", [False, True])
def test_denoisers_are_trained_against_attacks_on_pictures_and_on_latents(
    family, x, on_latents: bool
) -> None:
    unet = copy.deepcopy(family.pipe.unet)
    twin = family.with_module("unet", unet)
    data = family.vae_encoder()(x, [0, 0]) if on_latents else x
    surface = twin.denoising_residual(on_latents=on_latents)
    target = Target(unet, surface, ranks=dict.fromkeys(attention_layers(unet), 2))
    spec = DenoiserLora(inner=FGSM(), schedule=Schedule(steps=6, batch_size=2, learning_rate=1e-2))
    log = spec.train(target, data, seed=0, observe=silent).log
    assert log.curves[-1]["robust"] > log.curves[-1]["clean"] > 0
    assert surface(data, _SEEDS).shape == (2, 4, 16, 16)
    error = twin.denoising_error([""])(
        family.vae_encoder()(x, [0, 0]), torch.zeros(2).long(), _SEEDS
    )
    assert torch.allclose(surface(data, _SEEDS).square().flatten(1).mean(1), error, atol=1e-5)


@pytest.mark.parametrize("readout", ["residual", "noise", "gated"])
def test_gradients_are_slopes(family, x, readout: str) -> None:
    double = SD15.tiny()
    double.pipe.to(torch.float64)
    unet = double.pipe.unet
    gates = attach_gated(unet, dict.fromkeys(attention_layers(unet), 2), seed=0)
    for each in gates.updates.values():
        each.double()
        torch.nn.init.constant_(each.b, 0.1)
    surface = double.fine_tuning(_PROMPTS, _SETTINGS, readout=readout)
    z = x.double().requires_grad_(True)
    weights = torch.randn(surface(z, _SEEDS).shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((surface(z, _SEEDS) * weights).sum(), z)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        ahead, behind = (
            (surface(z + h * direction, _SEEDS) * weights).sum() for h in (1e-6, -1e-6)
        )
    slope = float(ahead - behind) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_a_user_fine_tunes_on_top_of_a_frozen_gate(family, x) -> None:
    unet = copy.deepcopy(family.pipe.unet)
    gates = attach_gated(unet, dict.fromkeys(attention_layers(unet), 2), seed=0)
    for each in gates.updates.values():
        torch.nn.init.constant_(each.b, 0.05)
    gates.freeze()
    before = [p.clone() for p in gates.parameters()]
    surface = family.with_module("unet", unet).fine_tuning(_PROMPTS, _SETTINGS)
    assert not torch.equal(surface(x, _SEEDS), family.fine_tuning(_PROMPTS, _SETTINGS)(x, _SEEDS))
    first = _loss(surface, x)
    surface.adapt(x, _SEEDS)
    assert _loss(surface, x) < first
    merged, noisy = surface.merged(), torch.zeros(2, 4, 16, 16)
    condition = torch.ones(2, 16, 16)
    with torch.no_grad():
        outputs = [m(noisy, 5, condition).sample for m in (surface.denoiser, merged)]
    assert torch.allclose(*outputs, atol=1e-5)
    assert all(map(torch.equal, before, gates.parameters()))
