"""Pixels as the denoiser meets them: values by hand, both backward passes, draws, refusals."""

import pytest

pytest.importorskip("diffusers")

import diffusers
import torch

from loricate.attacks.apgd import APGD
from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import ShapeError, UnsupportedError
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.family import EditSettings, Family
from loricate.core.generators import sample_seeds
from loricate.core.inpainting import around_the_middle, standard_masks
from loricate.core.objective import Objective
from loricate.core.shapes import PerSample
from loricate.core.threat import ThreatModel
from loricate.evaluation.subjects import Pictures
from loricate.families._inpaint import InpaintSurface, Repainting
from loricate.families._noising import Denoising
from loricate.families.sd15 import SD15
from loricate.objectives.denoising_loss import DenoisingLoss
from loricate.objectives.early_noise import EarlyNoise
from loricate.objectives.edit_target import EditTarget
from loricate.objectives.mist import Mist
from loricate.objectives.score_distillation import ScoreDistillation
from loricate.recipes._data import held_out_pictures
from loricate.recipes._models import load_family, model_path

_PROMPTS = ["a", "b", "c"]
_SEEDS = [1, 2, 3]
_SETTINGS = EditSettings(num_inference_steps=4, strength=0.5, guidance=1.0)
_OBJECTIVES = [
    DenoisingLoss(),
    ScoreDistillation(sign="+", jacobian="exact"),
    ScoreDistillation(sign="-", jacobian="exact"),
    Mist(),
    EditTarget(),
    EditTarget(task="inpaint"),
    EarlyNoise(),
    EarlyNoise(task="inpaint"),
]


def _family(prediction: str, dtype: torch.dtype = torch.float64) -> SD15:
    pipe = SD15.tiny().pipe
    config = {**pipe.scheduler.config, "prediction_type": prediction}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(config)
    for module in (pipe.vae, pipe.unet, pipe.text_encoder):
        module.to(dtype)
    return SD15(pipe)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def family(request: pytest.FixtureRequest) -> SD15:
    return _family(request.param)


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.2 + 0.6 * torch.rand(3, 3, 32, 32, generator=generator, dtype=torch.float64)


def _seen(family: SD15, x: torch.Tensor):
    """Latents, draws, noised latents and raw prediction, by the pipeline's own parts."""
    with torch.no_grad():
        latents = family.vae_encoder()(x, _SEEDS)
        draws = Denoising(family.pipe.scheduler).draws(latents, _SEEDS)
        noisy = family.pipe.scheduler.add_noise(latents, draws.noise, draws.timesteps)
        hidden = family.text_encoder()(_PROMPTS, _SEEDS)
        raw = family.pipe.unet(noisy, draws.timesteps, encoder_hidden_states=hidden).sample
    return latents, draws, noisy, raw


def test_rows_are_predicted_noise_minus_noise(family: SD15, x) -> None:
    latents, draws, _, raw = _seen(family, x)
    share = family.pipe.scheduler.alphas_cumprod.double()[draws.timesteps].view(-1, 1, 1, 1)
    expected = raw - draws.noise
    if family.pipe.scheduler.config.prediction_type == "v_prediction":
        # The error of a velocity, in the unit of noise.
        velocity = family.pipe.scheduler.get_velocity(latents, draws.noise, draws.timesteps)
        expected = share.sqrt() * (raw - velocity)
    with torch.no_grad():
        residual = family.denoiser(_PROMPTS)(x, _SEEDS)
        both = family.latent_and_residual(_PROMPTS)(x, _SEEDS)
    assert torch.allclose(residual, expected, atol=1e-6)
    assert torch.equal(both, torch.cat([latents, residual], dim=1))


def test_the_shortcut_changes_the_gradient_alone(family: SD15, x) -> None:
    z = x.clone().requires_grad_()
    exact, shortcut = (
        family.denoiser(_PROMPTS, jacobian=jacobian)(z, _SEEDS)
        for jacobian in ("exact", "shortcut")
    )
    assert torch.equal(exact, shortcut)
    (found,) = torch.autograd.grad(shortcut.pow(2).sum() / 2, z)
    # Score distillation: the error, pushed through the encoder.
    latents = family.vae_encoder()(z, _SEEDS)
    (expected,) = torch.autograd.grad((latents * shortcut.detach()).sum(), z)
    assert torch.allclose(found, expected)
    (true,) = torch.autograd.grad(exact.pow(2).sum() / 2, z)
    assert not torch.allclose(found, true, rtol=1e-2)


@pytest.mark.parametrize("kind", ["denoiser", "latent_and_residual", "early_denoiser"])
def test_gradients_are_slopes(family: SD15, x, kind: str) -> None:
    surface = family.surface(kind, _PROMPTS, _SETTINGS)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(surface(z, _SEEDS).pow(2).sum(), z)
    with torch.no_grad():
        ahead, behind = (surface(x + s * direction, _SEEDS).pow(2).sum() for s in (1e-5, -1e-5))
    slope = float(ahead - behind) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-4)


def test_repainting_has_the_gradient_of_its_picture_before_clipping(family: SD15, x) -> None:
    surface = family.surface("inpaint", _PROMPTS, _SETTINGS)
    assert isinstance(surface, InpaintSurface)

    def unclipped(z: torch.Tensor) -> torch.Tensor:
        painting = Repainting.of(family, z, surface.masks)
        return family._decode(surface._repainted(family._encode(z), painting, _SEEDS))

    generator = torch.Generator().manual_seed(1)
    weights, direction = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in "wd")
    z = x.clone().requires_grad_()
    output = surface(z, _SEEDS)
    (gradient,) = torch.autograd.grad((output * weights).sum(), z)
    with torch.no_grad():
        assert torch.allclose(output, unclipped(x).clamp(0, 1))
        ahead, behind = ((unclipped(x + s * direction) * weights).sum() for s in (1e-5, -1e-5))
    assert float((gradient * direction).sum()) == pytest.approx(
        float(ahead - behind) / 2e-5, rel=1e-4
    )


@pytest.mark.parametrize(
    "kind", ["denoiser", "latent_and_residual", "early_denoiser", "inpaint", "early_inpaint"]
)
def test_rows_belong_to_their_seeds(family: SD15, x, kind: str) -> None:
    surface = family.surface(kind, _PROMPTS, _SETTINGS)
    with torch.no_grad():
        first, again, other = (surface(x, seeds) for seeds in (_SEEDS, _SEEDS, [1, 2, 4]))
        alone = family.surface(kind, ["b"], _SETTINGS)(x[1:2], [2])
    assert surface.is_random
    assert torch.equal(first, again)
    assert (first != other).flatten(1).any(1).tolist() == [False, False, True]
    assert torch.allclose(alone[0], first[1])


def test_timesteps_are_uniform_over_training() -> None:
    family, n = SD15.tiny(), 4000
    latents = torch.zeros(n, 4, 1, 1)
    times = Denoising(family.pipe.scheduler).draws(latents, sample_seeds(0, range(n))).timesteps
    counts = torch.histc(times.double(), bins=10, min=0, max=1000)
    # Chi-squared of nine degrees of freedom, at one in ten thousand.
    assert float((counts - n / 10).square().sum() / (n / 10)) < 33.7


def test_hidden_pixels_have_no_say_at_the_first_step(family: SD15, x) -> None:
    masks = around_the_middle(1, 32)
    z = x.clone().requires_grad_()
    output = family.early_denoiser(_PROMPTS, _SETTINGS, masks=masks)(z, _SEEDS)
    (gradient,) = torch.autograd.grad(output.pow(2).sum(), z)
    assert not gradient[(masks > 0).expand_as(gradient)].any()
    assert gradient[(masks == 0).expand_as(gradient)].any()


def test_masks_are_drawn_by_the_seeds(family: SD15, x) -> None:
    masks = standard_masks(32)
    surface = family.early_denoiser(_PROMPTS, _SETTINGS, masks=masks)
    each = [family.early_denoiser(_PROMPTS, _SETTINGS, masks=mask[None]) for mask in masks]
    used = set()
    with torch.no_grad():
        for root in range(6):
            seeds = sample_seeds(root, range(3))
            drawn, fixed = surface(x, seeds), [alone(x, seeds) for alone in each]
            for row in range(3):
                same = [
                    i for i, output in enumerate(fixed) if torch.allclose(output[row], drawn[row])
                ]
                assert len(same) == 1
                used.add(same[0])
    assert used == set(range(5))


def _attacked(family: SD15, objective: Objective, attack: Attack, x: torch.Tensor) -> PerSample:
    surface = family.surface(objective.surface_kind, _PROMPTS, _SETTINGS)
    threat = ThreatModel(ball=ball("linf", "8/255"))
    return attack(surface, objective, threat, x, seeds=_SEEDS).value


@pytest.mark.parametrize(
    "objective", _OBJECTIVES, ids=lambda o: f"{type(o).__name__}-{o.surface_kind}"
)
def test_attacks_beat_noise_on_every_surface(objective: Objective, x) -> None:
    family, x = _family("epsilon", torch.float32), x.float()
    noise = _attacked(family, objective, RandomNoise(n_restarts=6), x)
    assert (_attacked(family, objective, PGD(steps=6), x) > noise).all()


@pytest.mark.parametrize("objective", [DenoisingLoss(), Mist()], ids=["denoising_loss", "mist"])
def test_apgd_is_at_least_as_strong_as_plain_steps(objective: Objective, x) -> None:
    family, x = _family("epsilon", torch.float32), x.float()
    adaptive, plain = (
        _attacked(family, objective, attack, x).mean()
        for attack in (APGD(steps=15), PGD(steps=15, decay=False))
    )
    assert adaptive >= plain


@pytest.fixture(scope="module")
def trained() -> tuple[Family, Pictures]:
    path = model_path("emoji-sd")
    pictures = held_out_pictures(path, None, 48)
    return load_family(path, "cpu"), pictures.head(4)


@pytest.mark.parametrize("sign", ["+", "-"])
def test_the_shortcut_works_on_a_trained_denoiser(trained, sign: str) -> None:
    family, pictures = trained
    objective = ScoreDistillation(sign=sign)
    surface = family.surface(objective.surface_kind, pictures.prompts, _SETTINGS)
    threat = ThreatModel(ball=ball("linf", "8/255"), eot_samples=2)
    found, noise = (
        attack(surface, objective, threat, pictures.images, seeds=range(4)).value
        for attack in (PGD(steps=6), RandomNoise(n_restarts=6))
    )
    assert (found > noise).all()


def test_other_numbers_of_pictures_and_prompts_are_refused(family: SD15, x) -> None:
    for kind in ("denoiser", "latent_and_residual", "early_denoiser"):
        with pytest.raises(ShapeError):
            family.surface(kind, _PROMPTS[:1], _SETTINGS)(x, _SEEDS)


def test_an_edit_without_steps_has_no_first_one(family: SD15) -> None:
    with pytest.raises(UnsupportedError):
        family.early_denoiser(_PROMPTS, EditSettings(strength=0.0))


def test_pictures_have_no_other_surfaces(family: SD15) -> None:
    with pytest.raises(UnsupportedError) as caught:
        family.surface("text_encoder", _PROMPTS, _SETTINGS)
    assert "text_encoder" in str(caught.value)
