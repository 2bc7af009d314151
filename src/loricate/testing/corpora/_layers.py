"""Layers that adapters are made for: those of the embedded model, and some of Stable Diffusion."""

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np

from loricate import models
from loricate.adapters import sgm
from loricate.adapters.adapter import Target
from loricate.adapters.names import canonical
from loricate.adapters.slots import slots_of
from loricate.adapters.weights import open_model

__all__ = ["ATTENTION", "Layer", "Layers", "embedded", "stable_diffusion"]

ATTENTION = r"\.to_[qkv]$|\.to_out\.0$"
"""Pattern of the layers that trainers update by default."""

_WIDTHS: Mapping[sgm.Family, tuple[int, ...]] = {
    "sd1": (320, 640, 1280, 1280),
    "sdxl": (320, 640, 1280),
}
_CONTEXT: Mapping[sgm.Family, int] = {"sd1": 768, "sdxl": 2048}
_TEXT = {"text_encoder": 768, "text_encoder_2": 1280}
# Typical standard deviation of a trained weight.
_DEVIATION = 0.03


class Layer(NamedTuple):
    """What an update has to fit.

    Args:
        shape: Shape of the weight.
        norm: Its Frobenius norm.
    """

    shape: tuple[int, ...]
    norm: float


Layers: TypeAlias = Mapping[Target, Layer]


def embedded(component: str, pattern: str = "") -> dict[Target, Layer]:
    """Layers of the embedded model.

    Args:
        component: Such as ``unet``.
        pattern: Regular expression that their names contain.
    """
    every = _embedded(component)
    return {target: layer for target, layer in every.items() if re.search(pattern, target.module)}


def stable_diffusion(
    family: sgm.Family, component: str, pattern: str = ATTENTION
) -> dict[Target, Layer]:
    """Layers of Stable Diffusion whose shape follows from their name.

    Args:
        family: ``sd1`` or ``sdxl``.
        component: ``unet``, ``text_encoder`` or ``text_encoder_2``.
        pattern: Regular expression that their names contain.
    """
    layers = {}
    for module in sgm.modules(component, family):
        shape = _shape(family, component, module)
        if shape is not None and re.search(pattern, module):
            layers[Target(component, module)] = Layer(shape, _DEVIATION * math.prod(shape) ** 0.5)
    return layers


@cache
def _embedded(component: str) -> Mapping[Target, Layer]:
    return dict(_read(component))


def _read(component: str) -> Iterator[tuple[Target, Layer]]:
    weights = open_model(models.path())[component]
    for module, slot in slots_of(component, weights).items():
        shape = slot.shape(weights)
        if len(shape) > 1 and "embedding." not in f"{module}.":
            norm = float(np.linalg.norm(slot.of(weights).astype(np.float64)))
            yield Target(component, canonical(component, module)), Layer(shape, norm)


def _shape(family: sgm.Family, component: str, module: str) -> tuple[int, ...] | None:
    if component in _TEXT:
        width = _TEXT[component]
        inner = {"fc1": (4 * width, width), "fc2": (width, 4 * width)}
        is_layer = ".layers." in module and "norm" not in module
        return inner.get(module.rpartition(".")[2], (width, width)) if is_layer else None
    width = _width(family, module)
    shapes: dict[str, tuple[int, ...]] = {
        r"\.attn2\.to_[kv]$": (width, _CONTEXT[family]),
        ATTENTION: (width, width),
        r"\.ff\.net\.0\.proj$": (8 * width, width),
        r"\.ff\.net\.2$": (width, 4 * width),
        r"\.proj_(in|out)$": (width, width, 1, 1) if family == "sd1" else (width, width),
        r"\.(conv2|downsamplers\.0\.conv)$": (width, width, 3, 3),
    }
    return next((shape for end, shape in shapes.items() if re.search(end, module)), None)


def _width(family: sgm.Family, module: str) -> int:
    widths = _WIDTHS[family]
    side, _, rest = module.partition("_blocks.")
    if side not in ("down", "up"):
        return widths[-1]
    level = int(rest.partition(".")[0])
    return widths[level] if side == "down" else widths[::-1][level]
