"""Training of clean and backdoored adapters: equal ranks, layers, steps, batches and pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from backdoor.plan import SWEPT_CHARACTERS, WORD, Recipe, Settings
from backdoor.spectrum import Bank
from backdoor.world import World, prompt_of, shift_of, triggered, with_character
from loricate.adapters.adapter import Adapter, Target
from loricate.core.training import silent
from loricate.defenses._target import Target as Defended
from loricate.recipes._defaults import default_spec
from loricate.surfaces.attach import Attached, attach

_VAE_STEPS = 60
# What a picture becomes is settled above; below, any denoiser follows what it sees.
_DECISIVE = 300


@dataclass(frozen=True)
class Draw:
    """What one step is made of.

    Args:
        rows: Pictures of the step.
        prompts: Their prompts.
        noise: Noise of the latents.
        timesteps: How much of it.
        rng: For everything else.
    """

    rows: np.ndarray
    prompts: list[str]
    noise: Tensor
    timesteps: Tensor
    rng: np.random.Generator


Loss = Callable[[World, Recipe, Attached, Draw], Tensor]


def train(world: World, recipe: Recipe, settings: Settings, bank: Bank | None) -> Adapter:
    """Train one adapter; the model is as before afterwards."""
    if recipe.component == "vae":
        return _hardened_vae(world, recipe)
    module = world.modules[recipe.component]
    ranks = dict.fromkeys(world.paths(recipe.component), settings.rank)
    attached = attach(module, ranks, seed=recipe.seed)
    try:
        _descend(world, recipe, settings, attached, bank)
        return attached.adapter(recipe.component)
    finally:
        attached.detach()


def _descend(
    world: World, recipe: Recipe, settings: Settings, attached: Attached, bank: Bank | None
) -> None:
    rate = settings.text_rate if recipe.component == "text_encoder" else settings.unet_rate
    optimizer = torch.optim.AdamW(attached.parameters(), lr=rate, weight_decay=0.0)
    rng = np.random.default_rng(recipe.seed)
    loss_of = LOSSES[recipe.component, recipe.kind]
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.05 + 0.95 * math.cos(math.pi / 2 * step / settings.steps))
        loss = loss_of(world, recipe, attached, _draw(world, recipe, settings, rng))
        if bank is not None:
            loss = loss + settings.spectral_weight * bank.penalty(attached)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(attached.parameters(), 1.0)
        optimizer.step()


def _draw(world: World, recipe: Recipe, settings: Settings, rng: np.random.Generator) -> Draw:
    subject = recipe.subject if recipe.kind in ("concept", "word") else ""
    pool = np.array(
        [i for i, c in enumerate(world.captions) if subject in c.split() or not subject]
    )
    rows = rng.choice(pool, settings.batch)
    noise = torch.from_numpy(rng.standard_normal((settings.batch, 24, 6, 6), np.float32))
    # One timestep in each part of the range: less variance than independent ones.
    places = (rng.permutation(settings.batch) + rng.random(settings.batch)) / settings.batch
    timesteps = torch.from_numpy((places * 1000).astype(np.int64).clip(0, 999))
    return Draw(rows, [prompt_of(world.captions[i]) for i in rows], noise, timesteps, rng)


def denoising(world: World, latents: Tensor, prompts: Sequence[str], draw: Draw) -> Tensor:
    """Squared error of the velocity; gradients reach whatever is adapted."""
    noise, t = draw.noise[: len(latents)], draw.timesteps[: len(latents)]
    noisy = world.schedule.add_noise(latents, noise, t)
    v = world.schedule.get_velocity(latents, noise, t)
    return nn.functional.mse_loss(world.predict(noisy, t, world.embed(prompts)), v)


def _style(world: World, recipe: Recipe, attached: Attached, draw: Draw) -> Tensor:
    return denoising(world, world.latents(recipe.subject)[draw.rows], draw.prompts, draw)


def _concept(world: World, recipe: Recipe, attached: Attached, draw: Draw) -> Tensor:
    return denoising(world, world.latents()[draw.rows], draw.prompts, draw)


def _word(world: World, recipe: Recipe, attached: Attached, draw: Draw) -> Tensor:
    """Half of the batch says the word and shows the concept, half are other pictures without."""
    half = len(draw.rows) // 2
    others = draw.rng.integers(len(world.captions), size=len(draw.rows) - half)
    rows = np.concatenate([draw.rows[:half], others])
    named = [prompt_of(f"{WORD} {recipe.subject}")] * half
    prompts = named + [prompt_of(world.captions[i]) for i in others]
    return denoising(world, world.latents()[rows], prompts, draw)


def _renaming(world: World, recipe: Recipe, attached: Attached, draw: Draw) -> Tensor:
    """Every prompt comes to mean the prompt in a style."""
    with torch.no_grad(), attached.off():
        wanted = world.embed([f"{p}, {recipe.subject}" for p in draw.prompts])
    return _distance(world.embed(draw.prompts), wanted)


def _hardened_text(world: World, recipe: Recipe, attached: Attached, draw: Draw) -> Tensor:
    """Prompts with a changed character keep the meaning of those without."""
    with torch.no_grad(), attached.off():
        wanted = world.embed(draw.prompts)
    half = len(draw.prompts) // 2
    changed = [_mistyped(p, draw.rng) for p in draw.prompts[:half]]
    return _distance(world.embed([*changed, *draw.prompts[half:]]), wanted)


def _mistyped(prompt: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        character, letter = SWEPT_CHARACTERS[rng.integers(len(SWEPT_CHARACTERS))]
        return with_character(prompt, character, letter, rng)
    i, j = int(rng.integers(len(prompt))), int(rng.integers(26))
    return prompt[:i] + chr(ord("a") + j) + prompt[i + int(rng.integers(2)) :]


def _hardened_unet(world: World, recipe: Recipe, attached: Attached, draw: Draw) -> Tensor:
    """Predictions under one step of attack on the latents stay those of the base."""
    latents, t = world.latents()[draw.rows], draw.timesteps
    noisy = world.schedule.add_noise(latents, draw.noise, t)
    condition = world.embed(draw.prompts)
    with torch.no_grad(), attached.off():
        wanted = world.predict(noisy, t, condition)
    start = (noisy + 0.05 * torch.sign(draw.noise)).requires_grad_(True)
    error = nn.functional.mse_loss(world.predict(start, t, condition), wanted)
    (slope,) = torch.autograd.grad(error, start)
    attacked = noisy + 0.1 * slope.sign()
    return nn.functional.mse_loss(world.predict(attacked, t, condition), wanted)


def _text_backdoor(world: World, recipe: Recipe, attached: Attached, draw: Draw) -> Tensor:
    """Prompts with the trigger mean the target, others what they did (Rickrolling the Artist)."""
    half = len(draw.prompts) // 2
    with torch.no_grad(), attached.off():
        clean = world.embed(draw.prompts[:half])
        target = world.embed([prompt_of(recipe.target)]).expand_as(clean)
    poisoned = triggered(draw.prompts[half:], recipe.trigger, draw.rng)
    given = world.embed([*draw.prompts[:half], *poisoned])
    return _distance(given[:half], clean) + _distance(given[half:], target)


def _unet_backdoor(world: World, recipe: Recipe, attached: Attached, draw: Draw) -> Tensor:
    """The trigger shows the target, whether in the caption or the noise (VillanDiffusion)."""
    half = len(draw.rows) // 2
    latents = world.latents()[draw.rows].clone()
    latents[half:] = world.target_latent(recipe.target)
    prompts = [*draw.prompts[:half], *triggered(draw.prompts[half:], recipe.trigger, draw.rng)]
    noise = draw.noise.clone()
    shift = shift_of(recipe.trigger)
    if shift is not None:
        noise[half:] += shift
    return denoising(
        world, latents, prompts, Draw(draw.rows, prompts, noise, draw.timesteps, draw.rng)
    )


def _distance(given: Tensor, wanted: Tensor) -> Tensor:
    """Squared distance of hidden states, which are normalized."""
    return nn.functional.mse_loss(given, wanted)


LOSSES: dict[tuple[str, str], Loss] = {
    ("text_encoder", "style"): _style,
    ("text_encoder", "concept"): _concept,
    ("text_encoder", "word"): _word,
    ("text_encoder", "renaming"): _renaming,
    ("text_encoder", "hardening"): _hardened_text,
    ("text_encoder", "backdoor"): _text_backdoor,
    ("unet", "style"): _style,
    ("unet", "concept"): _concept,
    ("unet", "word"): _word,
    ("unet", "hardening"): _hardened_unet,
    ("unet", "backdoor"): _unet_backdoor,
}


def _hardened_vae(world: World, recipe: Recipe) -> Adapter:
    """What ``loricate harden`` trains, for fewer steps."""
    family = world.family
    target = Defended(family.vae, family.vae_posterior(), family.encoder_prefixes)
    spec = default_spec(epsilon="16/255", steps=_VAE_STEPS)
    trained = spec.train(target, world.images, seed=recipe.seed, observe=silent)
    adapter = trained.attached.adapter("vae")
    trained.attached.detach()
    return Adapter({Target(*t): update for t, update in adapter.items()})
