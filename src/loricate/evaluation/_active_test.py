"""A weakness planted behind everything deployed, of which a feasible exploit is known."""

from dataclasses import dataclass
from typing import Final, final

import torch
from torch import Tensor

from loricate.core.attack import Attack
from loricate.core.balls import Linf
from loricate.core.domain import PIXELS, Domain
from loricate.core.generators import Seeds, generators
from loricate.core.shapes import Batch, Images, PerSample
from loricate.core.surface import Surface
from loricate.evaluation._bench import Bench, levelled
from loricate.records.schema import Check
from loricate.surfaces.defended import defended

__all__ = ["PlantedLatent", "active_test"]

_REACHED: Final = 0.95
_PATCH: Final = 4  # pixels: coarse enough to survive common preprocessing
_LOUDNESS: Final = 10.0  # planted displacement over the norm of a clean encoding
_TINY: Final = 1e-12


@final
@dataclass(frozen=True)
class PlantedLatent(Surface):
    """An encoder with ``gain * <weights, x>`` added to the first channel of its latents.

    Args:
        surface: The encoder; its outputs have channels in the second dimension.
        weights: Weight of every pixel.
        gain: Factor of the planted part.

    Source: the active tests of Zimmermann et al. 2022 [zimmermann2022].
    """

    surface: Surface
    weights: Tensor
    gain: float

    @property
    def domain(self) -> Domain:
        """That of the encoder."""
        return self.surface.domain

    @property
    def is_random(self) -> bool:
        """As the encoder."""
        return self.surface.is_random

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Latents, the first channel of them raised."""
        latents = self.surface(x, seeds)
        first, others = latents[:, :1], latents[:, 1:]
        planted = self.gain * _projected(x, self.weights)
        return torch.cat([first + planted.view(-1, *(1,) * (latents.ndim - 1)), others], 1)


def active_test(bench: Bench, attack: Attack, epsilon: float, eot_samples: int) -> Check:
    """Whether the attack finds 95 % of what a known exploit of a planted weakness gains.

    The exploit moves every pixel by the radius along the sign of its weight, clipped to the box.
    In front of an encoder alone nothing can gain more; through preprocessing it is a point that
    the attack could have found.

    Args:
        bench: Subject and pictures.
        attack: The attack that evaluates.
        epsilon: Radius of the Linf ball.
        eot_samples: Draws the attack averages.

    Returns:
        The check.
    """
    x, weights = bench.pictures.images, _patches(bench)
    known = _known_optimum(bench, weights, epsilon)
    planted = _planted(bench, weights, float(known.mean()))
    found = bench.attacked(
        attack, Linf(epsilon=epsilon), eot_samples=eot_samples, surface=planted
    ).adversarial
    shares = _displacement(bench, weights, found, x).abs() / known.clamp(min=_TINY)
    share = float(shares.min())
    message = f"the attack reached {share:.1%} of a planted optimum, on the worst of {len(x)}"
    data = {"smallest_share": share, "mean_share": float(shares.mean())}
    is_wrong = share < _REACHED
    return levelled("active_test", bench.subject.name, message, data, is_wrong=is_wrong)


def _patches(bench: Bench) -> Tensor:
    x = bench.pictures.images
    channels, height, width = x.shape[1:]
    (generator,) = generators([bench.seed], "planted")
    shape = (channels, -(-height // _PATCH), -(-width // _PATCH))
    coarse = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
    patches = coarse.repeat_interleave(_PATCH, 1).repeat_interleave(_PATCH, 2)
    return patches[:, :height, :width].contiguous()


def _known_optimum(bench: Bench, weights: Tensor, epsilon: float) -> PerSample:
    x = bench.pictures.images
    exploits = (PIXELS.clip(x + sign * epsilon * weights.sign()) for sign in (1, -1))
    gains = [_displacement(bench, weights, exploit, x).abs() for exploit in exploits]
    return torch.stack(gains).amax(0)


def _planted(bench: Bench, weights: Tensor, optimum: float) -> Surface:
    encoder = bench.subject.family.vae_encoder()
    latents = encoder(bench.pictures.images, bench.scoring_seeds(0)).detach()
    positions = latents[0, 0].numel()
    size = float(latents.flatten(1).norm(dim=1).mean())
    gain = _LOUDNESS * size / (positions**0.5 * max(optimum, _TINY))
    return defended(PlantedLatent(encoder, weights, gain), bench.subject.deployed)


@torch.no_grad()
def _displacement(bench: Bench, weights: Tensor, images: Images, clean: Images) -> PerSample:
    """What preprocessing leaves of a change, along the weights; a mean over scoring draws."""
    rows = []
    for draw in range(bench.scoring_draws if bench.is_random else 1):
        moved, still = (bench.preprocessed(x, draw) for x in (images, clean))
        rows.append(_projected(moved - still, weights))
    return torch.stack(rows).mean(0)


def _projected(x: Batch, weights: Tensor) -> PerSample:
    return (x * weights).flatten(1).sum(1)
