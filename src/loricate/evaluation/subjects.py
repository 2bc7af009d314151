"""What is evaluated: pictures, and models that answer for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from loricate.core.batches import fitting
from loricate.core.defense import InputDefense
from loricate.core.family import EditSettings, Family
from loricate.core.generators import sample_seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Images, PerSample
from loricate.core.surface import Surface
from loricate.surfaces.defended import defended

__all__ = ["FeatureSpace", "Pictures", "Subject"]


class FeatureSpace(Protocol):
    """A judge that neither adapters nor attacks are trained on."""

    def features(self, images: Images) -> Tensor:
        """One vector a picture."""

    def alignment(self, images: Images, prompts: Sequence[str]) -> PerSample:
        """Agreement of each picture with its prompt, in [-1, 1]."""


@dataclass(frozen=True)
class Pictures:
    """Held-out pictures with their prompts.

    Args:
        images: Pixels in [0, 1].
        prompts: What edits ask for.
        first: Global index of the first picture.
    """

    images: Images
    prompts: tuple[str, ...]
    first: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def indices(self) -> list[int]:
        """Global indices."""
        return list(range(self.first, self.first + len(self)))

    def head(self, n: int | None) -> "Pictures":
        """The first ``n``."""
        return Pictures(self.images[:n], self.prompts[:n], self.first)

    def only(self, index: int) -> "Pictures":
        """The picture with one global index."""
        at = index - self.first
        return Pictures(self.images[at : at + 1], self.prompts[at : at + 1], index)

    def on(self, device: torch.device) -> "Pictures":
        """The same pictures on a device."""
        return Pictures(self.images.to(device), self.prompts, self.first)

    def chunks(self, size: int) -> list["Pictures"]:
        """Fixed batches, so that a picture always meets the same batch mates.

        Args:
            size: Pictures of up to 64 x 64 pixels in a batch; of larger ones there are fewer.
        """
        size = fitting(size, self.images)
        return [
            Pictures(self.images[i : i + size], self.prompts[i : i + size], self.first + i)
            for i in range(0, len(self), size)
        ]


@dataclass(frozen=True)
class Subject:
    """A deployed model: weights, adapter and preprocessing together.

    Args:
        name: As in the record.
        family: The pipeline, with its adapter attached or merged.
        defenses: Preprocessing in front of the encoder.
    """

    name: str
    family: Family
    defenses: tuple[InputDefense, ...] = ()

    @property
    def deployed(self) -> tuple[InputDefense, ...]:
        """The preprocessing, with its model where it needs one."""
        return tuple(each.bind(self.family) for each in self.defenses)

    def surface(
        self, objective: Objective, prompts: Sequence[str], settings: EditSettings
    ) -> Surface:
        """Everything deployed, up to where an objective looks."""
        return self._behind(self.family.surface(objective.surface_kind, prompts, settings))

    @torch.no_grad()
    def latents(self, images: Images, seeds: Sequence[int]) -> Tensor:
        """Encodings of preprocessed pictures."""
        return self._behind(self.family.vae_encoder())(images, seeds)

    @torch.no_grad()
    def reconstructions(self, images: Images, seeds: Sequence[int]) -> Images:
        """Decoded encodings, in [0, 1]."""
        return self._behind(self.family.autoencoder())(images, seeds).clamp(0, 1)

    @torch.no_grad()
    def generated(self, pictures: Pictures, settings: EditSettings, seed: int) -> Images:
        """Pictures from the prompts alone, in [0, 1]."""
        seeds = sample_seeds(seed, pictures.indices, "generation")
        return self.family.generate(pictures.prompts, seeds, settings)

    @torch.no_grad()
    def edits(
        self, pictures: Pictures, images: Images, settings: EditSettings, seed: int
    ) -> Images:
        """Edits of variants of some pictures, with the scoring noise of those pictures."""
        seeds = sample_seeds(seed, pictures.indices, "scored-edit")
        return self._behind(self.family.edit(pictures.prompts, settings))(images, seeds)

    def _behind(self, surface: Surface) -> Surface:
        return defended(surface, self.deployed)
