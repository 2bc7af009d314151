"""Batches of emoji pictures on random flat backgrounds, shifted, flipped and recolored."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

CHANNEL_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


def load(path: str, size: int, *, held_out: bool) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Premultiplied RGBA in [0, 1], (n, 4, size, size), and the rows that describe it."""
    rows = dict(np.load(path))
    keep = rows["held_out"] == held_out
    rgba = torch.from_numpy(rows.pop("rgba")[keep]).permute(0, 3, 1, 2).float() / 255
    rgba[:, :3] *= rgba[:, 3:]
    if rgba.shape[-1] != size:
        shape = (size, size)
        rgba = functional.interpolate(rgba, shape, mode="bilinear", antialias=True).clamp(0, 1)
    return rgba.contiguous(), {name: column[keep] for name, column in rows.items()}


def on_background(rgba: Tensor, color: Tensor) -> Tensor:
    """Composite over one flat color a picture: (n, 4, h, w), (n, 3) -> (n, 3, h, w)."""
    return rgba[:, :3] + (1 - rgba[:, 3:]) * color[:, :, None, None]


def backgrounds(n: int, generator: torch.Generator) -> Tensor:
    """Flat colors: half of them light, as emoji usually stand on."""
    color = torch.rand(n, 3, generator=generator)
    light = torch.rand(n, 1, generator=generator) < 0.5
    return torch.where(light, 0.8 + 0.2 * color, color)


def widen(
    rgba: Tensor,
    generator: torch.Generator,
    *,
    shift: int = 3,
    recolor: float = 0.5,
    flip: bool = True,
    color: Tensor | None = None,
) -> Tensor:
    """A random variant of each picture: shift, mirror, channel order, background."""
    n, _, size, _ = rgba.shape
    padded = functional.pad(rgba, (shift,) * 4)
    offsets = torch.randint(0, 2 * shift + 1, (n, 2), generator=generator).tolist()
    moved = torch.stack(
        [p[:, i : i + size, j : j + size] for p, (i, j) in zip(padded, offsets, strict=True)]
    )
    if flip:
        mirrored = torch.rand(n, generator=generator) < 0.5
        moved[mirrored] = moved[mirrored].flip(-1)
    for index in (torch.rand(n, generator=generator) < recolor).nonzero().flatten().tolist():
        order = CHANNEL_ORDERS[int(torch.randint(6, (1,), generator=generator))]
        moved[index, :3] = moved[index, list(order)]
    return on_background(moved, backgrounds(n, generator) if color is None else color)


def unsettle(x: Tensor, generator: torch.Generator, *, noise: float = 0.08) -> Tensor:
    """Pictures with what a judge should not mind: some blur, other brightness, noise."""
    n = len(x)
    blurred = functional.avg_pool2d(functional.pad(x, (1,) * 4, mode="replicate"), 3, 1)
    weight, strength = torch.rand(2, n, 1, 1, 1, generator=generator)
    mixed = torch.lerp(x, blurred, weight * (strength > 0.5))
    gain = 0.9 + 0.2 * torch.rand(n, 1, 1, 1, generator=generator)
    level = noise * torch.rand(n, 1, 1, 1, generator=generator).square()
    return (mixed * gain + level * torch.randn(x.shape, generator=generator)).clamp(0, 1)
