"""Make the autoencoder reproduce the picture badly."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["Reconstruction"]


@final
@dataclass(frozen=True, kw_only=True)
class Reconstruction(Objective):
    """Mean squared error between the decoded encoding and the clean picture.

    Source: the inner problem of SRL-VAE [srlvae2025], without its perceptual term.
    """

    surface_kind: ClassVar[str] = "vae"

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """The clean pictures themselves."""
        return x

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Mean squared error of each reconstruction."""
        return (output - reference).flatten(1).pow(2).mean(1)
