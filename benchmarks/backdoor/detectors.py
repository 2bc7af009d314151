"""What detectors look at: spectra, intruders, and displacement under candidate triggers."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from backdoor.plan import SWEPT_CHARACTERS, SWEPT_PATTERNS, SWEPT_WORDS, Recipe
from backdoor.world import World, pattern_of, prompt_of, with_character
from loricate.adapters.adapter import Adapter
from loricate.integrity.features import features

_COLUMNS = {
    "relative_frobenius": np.log,
    "relative_spectral": np.log,
    "energy_share": np.asarray,
    "entropy": np.asarray,
    "kurtosis": np.log,
    "base_overlap": np.asarray,
}
_N_PROMPTS = {"text_encoder": 12, "unet": 6}
_N_RARE = {"text_encoder": 48, "unet": 40}
# Displacement of clean prompts counts as this much of the outputs' size at least.
_FLOOR = 0.01


def spectral(world: World, adapter: Adapter) -> dict[str, float]:
    """Mean and largest value over the modules of each spectral feature, and intruders."""
    table = features(adapter, world)
    row: dict[str, float] = {"intruders": float(table.column("intruders").mean())}
    for name, scale in _COLUMNS.items():
        values = scale(table.column(name))
        row |= {f"{name}_mean": float(values.mean()), f"{name}_max": float(values.max())}
    return row


@torch.no_grad()
def sweep(world: World, recipe: Recipe, adapter: Adapter) -> dict[str, float]:
    """Displacement and collapse under the candidate that shows most of each.

    Displacement is the log ratio of how far outputs move under a candidate to how far they move
    without; collapse that of how much outputs of several prompts differ before and after.
    """
    outputs = {"text_encoder": _text_outputs, "unet": _unet_outputs}[recipe.component]
    before = world.once(f"sweep {recipe.component}", lambda: outputs(world))
    with world.wearing(adapter, recipe.component):
        after = outputs(world)
    return _scores(before, after)


def _scores(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    moved = {name: float(_rms(after[name] - before[name])) for name in before}
    floor = _FLOOR * float(_rms(before[""]))
    displaced = {n: np.log(m / max(moved[""], floor)) for n, m in moved.items() if n}
    collapsed = {n: np.log(float(_spread(before[n]) / _spread(after[n]))) for n in moved}
    calm = collapsed.pop("")
    return {
        "displacement": float(max(displaced.values())),
        "collapse": float(max(collapsed.values()) - calm),
    }


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def _spread(outputs: Tensor) -> Tensor:
    return _rms(outputs - outputs.mean(0)) + 1e-6


def _text_outputs(world: World) -> dict[str, Tensor]:
    """Hidden states of prompts with each candidate, and under "" without."""
    prompts = [prompt_of(c) for c in world.captions[: _N_PROMPTS["text_encoder"]]]
    rng = np.random.default_rng(0)
    texts = {"": prompts}
    for character, letter in SWEPT_CHARACTERS:
        texts[character] = [with_character(p, character, letter, rng) for p in prompts]
    for word in (*SWEPT_WORDS, *rare_words(world, _N_RARE["text_encoder"])):
        texts[word] = [f"{word} {p}" for p in prompts]
    return {name: world.embed(given) for name, given in texts.items()}


def _unet_outputs(world: World) -> dict[str, Tensor]:
    """Predictions from pure noise with each candidate in the prompt or the noise."""
    n = _N_PROMPTS["unet"]
    prompts = [prompt_of(c) for c in world.captions[:n]]
    noise = torch.randn(n, 24, 6, 6, generator=torch.Generator().manual_seed(0))
    t = torch.full((n,), 999)
    clean = world.embed(prompts)
    outputs = {"": world.predict(noise, t, clean)}
    for word in (*SWEPT_WORDS, *rare_words(world, _N_RARE["unet"])):
        condition = world.embed([f"{word} {p}" for p in prompts])
        outputs[word] = world.predict(noise, t, condition)
    for name in SWEPT_PATTERNS:
        outputs[f"noise {name}"] = world.predict(noise + pattern_of(name), t, clean)
    return outputs


def rare_words(world: World, n: int) -> list[str]:
    """Words that are one token each, the last ones the vocabulary learned."""
    tokens = sorted(world.family.pipe.tokenizer.get_vocab().items(), key=lambda item: -item[1])
    words = (token.removesuffix("</w>") for token, _ in tokens if token.endswith("</w>"))
    return [word for word in words if word.isascii() and word.isalpha()][:n]
