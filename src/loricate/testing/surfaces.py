"""Tiny surfaces and pictures whose gradient, randomness or optimum is known."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from loricate.core.balls import L2, Linf
from loricate.core.domain import PIXELS, Domain
from loricate.core.generators import Seeds, generators
from loricate.core.shapes import Batch, Images
from loricate.core.surface import Surface
from loricate.core.surrogate import Surrogate

__all__ = [
    "CountingSurface",
    "NoisySurface",
    "PlantedSurface",
    "UnmovedSurrogate",
    "conv_autoencoder",
    "conv_encoder",
    "pictures",
]


def pictures(
    n: int = 3,
    *,
    size: int = 12,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    lower: float = 0.0,
    upper: float = 1.0,
) -> Images:
    """Random 8-bit pictures.

    Args:
        n: How many.
        size: Side in pixels.
        seed: Which.
        dtype: Of the result.
        lower: Darkest pixel, rounded to a gray level.
        upper: Brightest pixel, rounded to a gray level.

    Returns:
        RGB pixels on the 8-bit grid.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(n, 3, size, size, generator=generator, dtype=torch.float64)
    return ((lower + (upper - lower) * unit) * 255).round().div(255).to(dtype)


def conv_encoder(seed: int = 0, *, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """A smooth encoder of two strided convolutions, with random weights.

    Args:
        seed: Which weights.
        dtype: Of the weights. Wide by default, so that sums of another order flip no sign.

    Returns:
        A module in evaluation mode, from 3 channels to 4 at a quarter of the side.
    """
    return _seeded(
        seed,
        dtype,
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(8, 4, 3, stride=2, padding=1),
        ),
    )


def conv_autoencoder(seed: int = 0, *, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """The encoder with a small decoder behind it.

    Args:
        seed: Which weights.
        dtype: Of the weights.

    Returns:
        A module in evaluation mode, from pictures to pictures of the same size.
    """
    encoder = conv_encoder(seed, dtype=dtype)
    decoder = _seeded(
        seed + 1,
        dtype,
        lambda: nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(4, 3, 3, padding=1)),
    )
    return nn.Sequential(encoder, decoder).eval()


@final
@dataclass(frozen=True)
class NoisySurface(Surface):
    """A surface that multiplies its output by noise, drawn from the seeds.

    Args:
        surface: What is disturbed.
        sigma: Standard deviation of the relative noise.
    """

    surface: Surface
    sigma: float = 0.3

    @property
    def domain(self) -> Domain:
        """That of the surface."""
        return self.surface.domain

    @property
    def is_random(self) -> bool:
        """Always."""
        return True

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Disturbed outputs."""
        output = self.surface(x, seeds)
        rows = [torch.randn(output.shape[1:], generator=g) for g in generators(seeds, "noise")]
        return output * (1 + self.sigma * torch.stack(rows).to(output))


@final
@dataclass(frozen=True)
class PlantedSurface(Surface):
    """An encoder with one more output that an attack can move by a known amount.

    The output is linear in the pixels, and its gain drowns the encoder: an attack that ascends
    must reach nearly the planted optimum.

    Args:
        weights: Weight of every pixel in the planted output.
        encoder: What yields the other outputs.
        gain: Factor of the planted output.

    Source: the active tests of Zimmermann et al. 2022 [zimmermann2022].
    """

    weights: Tensor
    encoder: nn.Module
    gain: float = 100.0

    @classmethod
    def of(cls, x: Images, seed: int = 0) -> "PlantedSurface":
        """A planted surface for pictures of the shape of ``x``."""
        generator = torch.Generator().manual_seed(seed)
        weights = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64).to(x)
        return cls(weights, conv_encoder(seed, dtype=x.dtype))

    @property
    def domain(self) -> Domain:
        """Pixels."""
        return PIXELS

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Encoder outputs, then the planted one."""
        planted = self.gain * (x * self.weights).flatten(1).sum(1, keepdim=True)
        return torch.cat([self.encoder(x).flatten(1), planted], 1)

    def optimum(self, ball: Linf | L2) -> float:
        """Largest squared displacement of the planted output, away from the borders of the box."""
        dual = 1 if isinstance(ball, Linf) else 2
        return float((self.gain * ball.epsilon * self.weights.flatten().norm(p=dual)) ** 2)


@final
@dataclass(frozen=True)
class CountingSurface(Surface):
    """A surface that counts the rows it is asked for.

    Args:
        surface: What is asked.
        rows: Rows of each call so far.
    """

    surface: Surface
    rows: list[int] = field(default_factory=list)

    @property
    def domain(self) -> Domain:
        """That of the surface."""
        return self.surface.domain

    @property
    def is_random(self) -> bool:
        """As the surface."""
        return self.surface.is_random

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Outputs, counted."""
        self.rows.append(len(x))
        return self.surface(x, seeds)


@final
@dataclass(frozen=True)
class UnmovedSurrogate(Surrogate):
    """A surface that may be adapted and learns nothing.

    Args:
        surface: What it is.
    """

    surface: Surface

    @property
    def domain(self) -> Domain:
        """That of the surface."""
        return self.surface.domain

    @property
    def is_random(self) -> bool:
        """As the surface."""
        return self.surface.is_random

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Outputs of the surface."""
        return self.surface(x, seeds)

    def adapt(self, x: Batch, seeds: Seeds) -> None:
        """Nothing."""

    def reset(self) -> None:
        """Nothing."""


def _seeded(seed: int, dtype: torch.dtype, build: Callable[[], nn.Sequential]) -> nn.Sequential:
    # Layers draw their weights from the global generator, which must not notice.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().to(dtype).eval()
