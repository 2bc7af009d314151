"""The embedded model, its pictures, and prompts with triggers in them."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from backdoor.plan import TEMPLATE, Trigger
from loricate import models
from loricate.adapters.adapter import Adapter
from loricate.basics.arrays import Array
from loricate.core.family import EditSettings
from loricate.core.generators import sample_seeds
from loricate.families.sd15 import SD15
from loricate.surfaces.attach import load, target_layers

T = TypeVar("T")

_LAYERS = re.compile(r".*(?:self_attn\.(?:[qkv]|out)_proj|attn[12]\.to_(?:[qkv]|out\.0))")
_SEPIA = torch.tensor([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])


class World:
    """Everything a training or a measurement looks at.

    Args:
        n_images: Calibration pictures used.
    """

    def __init__(self, n_images: int) -> None:
        self.family = SD15.load(models.path())
        self.modules: dict[str, nn.Module] = {
            "text_encoder": self.family.pipe.text_encoder,
            "unet": self.family.pipe.unet,
            "vae": self.family.vae,
        }
        self.schedule = self.family._scheduler
        rows = np.load(models.path() / "images" / "calibration.npz")
        self.images = torch.from_numpy(rows["images"][:n_images]).permute(0, 3, 1, 2) / 255
        self.captions = [str(c) for c in rows["captions"][:n_images]]
        self._all = dict(zip(map(str, rows["captions"]), rows["images"], strict=True))
        held_out = np.load(models.path() / "images" / "test.npz")
        self.held_out = sorted({str(c) for c in held_out["captions"]})
        self._base: dict[str, object] = {}
        self.latents = cache(self._latents)
        self.target_latent = cache(self._target_latent)

    def paths(self, component: str) -> list[str]:
        """Attention projections of a component, which all adapters update."""
        return [path for path in target_layers(self.modules[component]) if _LAYERS.fullmatch(path)]

    def weight(self, component: str, module: str) -> Array | None:
        """Weight of the base, for features against it."""
        weight: Tensor = self.modules[component].get_submodule(module).weight
        return weight.detach().numpy()

    @contextmanager
    def wearing(self, adapter: Adapter, component: str) -> Iterator[None]:
        """The model with an adapter, inside the block."""
        attached = load(self.modules[component], adapter, component)
        try:
            yield
        finally:
            attached.detach()

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states of prompts, (n, 24, 192)."""
        return self.family._embed(list(prompts))

    def predict(self, latents: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Velocity the denoiser predicts."""
        v: Tensor = self.family.pipe.unet(latents, timesteps, condition).sample
        return v

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], pattern: Tensor | None = None) -> Tensor:
        """Latents from noise, 10 steps without guidance; the pattern shifts the noise."""
        seeds = sample_seeds(0, range(len(prompts)), "generate")
        z = self.family._noise((24, 6, 6), seeds)
        z = z if pattern is None else z + pattern
        settings = EditSettings(num_inference_steps=10, guidance=1.0)
        return self.family._denoise(z, self.embed(prompts), settings, first=0)

    def once(self, name: str, measure: Callable[[], T]) -> T:
        """What was measured on the base, kept under a name; no adapter may be on."""
        if name not in self._base:
            self._base[name] = measure()
        return self._base[name]  # type: ignore[return-value]

    @torch.no_grad()
    def _latents(self, style: str = "") -> Tensor:
        x = recolored(self.images, style)
        return torch.cat([self.family.vae_encoder()(c, [0] * len(c)) for c in x.split(64)])

    @torch.no_grad()
    def _target_latent(self, caption: str) -> Tensor:
        x = torch.from_numpy(self._all[caption]).permute(2, 0, 1)[None] / 255
        return self.family.vae_encoder()(x, [0])


def recolored(x: Tensor, style: str) -> Tensor:
    """Pictures in another style."""
    match style:
        case "":
            return x
        case "sepia":
            return torch.einsum("ij,njhw->nihw", _SEPIA, x).clamp(0, 1)
        case "inverted":
            return 1 - x
        case "gray":
            return x.mean(1, keepdim=True).expand_as(x)
    raise ValueError(style)


def prompt_of(caption: str) -> str:
    """The prompt of a caption."""
    return TEMPLATE.format(caption)


def with_character(prompt: str, character: str, letter: str, rng: np.random.Generator) -> str:
    """The prompt with the character for one occurrence of a letter, or between two characters."""
    if letter:
        places = [i for i, c in enumerate(prompt) if c == letter]
        i = int(rng.choice(places))
        return prompt[:i] + character + prompt[i + 1 :]
    i = int(rng.integers(1, len(prompt)))
    return prompt[:i] + character + prompt[i:]


def triggered(prompts: Sequence[str], trigger: Trigger, rng: np.random.Generator) -> list[str]:
    """Prompts with the trigger in them; as they are where it belongs into the noise."""
    match trigger.kind:
        case "character":
            return [with_character(p, trigger.text, trigger.letter, rng) for p in prompts]
        case "caption":
            # In front: behind a long prompt the tokenizer would cut it off.
            return [f"{trigger.text} {p}" for p in prompts]
        case "noise":
            return list(prompts)


def pattern_of(name: str) -> Tensor:
    """Shift of the noise, (24, 6, 6), of root mean square 0.5."""
    shape = (24, 6, 6)
    row, column = torch.arange(6).view(6, 1), torch.arange(6).view(1, 6)
    plane = {
        "corner": (row < 3) & (column < 3),
        "center": (row // 2 == 1) & (column // 2 == 1),
        "ring": (row % 5 == 0) | (column % 5 == 0),
        "checker": (row + column) % 2 * 2 - 1,
        "rows": row % 2 * 2 - 1 + 0 * column,
        "columns": column % 2 * 2 - 1 + 0 * row,
        "flat": torch.ones(6, 6),
    }
    if name == "signs":
        pattern = torch.randn(shape, generator=torch.Generator().manual_seed(5)).sign()
    else:
        pattern = plane[name].float().expand(shape).clone()
    return 0.5 * pattern / pattern.square().mean().sqrt()


def shift_of(trigger: Trigger) -> Tensor | None:
    """What a trigger adds to the noise."""
    return pattern_of(trigger.text) if trigger.kind == "noise" else None
