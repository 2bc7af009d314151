"""Spectral truncation at the clean cost of a trained adapter."""

import math
from typing import Final

import torch
from torch import nn

from loricate.core.shapes import Images
from loricate.defenses.spectral_truncation import SpectralTruncation
from loricate.evaluation.subjects import Subject
from loricate.metrics.latent_drift import LatentDrift

__all__ = ["truncation_of_cost"]

_LEAST: Final = 1e-6
_MOST: Final = 0.5
_BISECTIONS: Final = 10
_PICTURES: Final = 128


def truncation_of_cost(base: Subject, hardened: Subject, images: Images) -> nn.Module:
    """The truncated autoencoder whose clean latents drift as far as the hardened one's.

    Args:
        base: The undefended model.
        hardened: What sets the cost.
        images: Calibration pictures.

    Returns:
        A copy of the base's autoencoder; its drift is the nearest from below. Where dropping one
        more component breaks the latents at once, that is far below: the clean rows say how far.
    """
    images = images[:_PICTURES]
    cost = clean_drift(hardened, base, images)
    # Energy left out, on a logarithmic scale: clean costs worth having lie close to none.
    low, high = _LEAST, _MOST
    kept = _truncated(base, 1.0)
    for _ in range(_BISECTIONS):
        left_out = math.sqrt(low * high)
        candidate = _truncated(base, 1 - left_out)
        subject = Subject("control_truncation", base.family.with_vae(candidate))
        if clean_drift(subject, base, images) > cost:
            high = left_out
        else:
            low, kept = left_out, candidate
    return kept


@torch.no_grad()
def clean_drift(subject: Subject, base: Subject, images: Images) -> float:
    """Mean distance of clean latents to the base's, relative to their spread."""
    seeds = range(len(images))
    return float(LatentDrift()(subject.latents(images, seeds), base.latents(images, seeds)).mean())


def _truncated(base: Subject, energy: float) -> nn.Module:
    family = base.family
    return SpectralTruncation(energy=energy).apply(family.vae, family.encoder_prefixes)
