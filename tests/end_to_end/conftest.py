"""Adapters with names of Stable Diffusion 1.x, for the commands that work on adapter files."""

import importlib

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")

SHAPES = {
    ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"): (16, 20),
    ("unet", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"): (16, 768),
    ("unet", "down_blocks.0.attentions.0.proj_in"): (16, 16, 1, 1),
    ("unet", "down_blocks.0.resnets.0.conv1"): (12, 8, 3, 3),
    ("text_encoder", "text_model.encoder.layers.0.mlp.fc1"): (24, 18),
}


@pytest.fixture
def lora(rng):
    """Makes adapters: ``lora(rank=4, scale=1.0, dtype=np.float32, shapes=SHAPES)``."""

    def made(*, rank=4, scale=0.5, dtype=np.float32, shapes=None):
        updates = {}
        for target, shape in (shapes or SHAPES).items():
            # A decay, so that ranks mean something.
            decay = 0.5 ** np.arange(rank)
            a = rng.standard_normal((rank, *shape[1:])) / shape[1] ** 0.5
            b = rng.standard_normal((shape[0], rank)) * decay
            b = b.reshape(*b.shape, *(1,) * (len(shape) - 2))
            updates[Target(*target)] = Update.from_factors(a.astype(dtype), b.astype(dtype), scale)
        return Adapter(updates)

    return made


@pytest.fixture
def shapes():
    """Shape of each weight that ``lora`` updates."""
    return SHAPES
