"""What a model family offers to attacks and defenses."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import torch
from torch import Tensor, nn

from loricate.basics.errors import UnsupportedError
from loricate.basics.spec import Count, Fraction01, Radius, Spec
from loricate.core.generators import Seeds
from loricate.core.inpainting import Masks, around_the_middle, standard_masks
from loricate.core.prompt_surface import PromptSurface
from loricate.core.shapes import Images
from loricate.core.surface import Surface
from loricate.core.surrogate import FineTuneSettings, Readout, Surrogate

__all__ = ["Component", "EditSettings", "Family", "Jacobian"]

_SURROGATE_STEPS: Final = 10  # of every turn, as in the published attack code of ACE

Jacobian = Literal["exact", "shortcut"]
"""Whether a backward pass goes through the denoiser, or takes it to be the identity."""

Component = Literal["vae", "text_encoder", "unet"]
"""Parts of a pipeline that adapters attach to, by the names diffusers gives them."""


@dataclass(frozen=True, kw_only=True)
class EditSettings(Spec):
    """How image-to-image edits are made, and attacked.

    Args:
        num_inference_steps: Length of the sampler's schedule.
        strength: Share of the schedule that runs on the noised picture.
        guidance: Classifier-free guidance scale; 1 turns it off.
    """

    num_inference_steps: Count = 8
    strength: Fraction01 = 0.5
    guidance: Radius = 2.0


class Family(ABC):
    """A loaded pipeline, seen as surfaces."""

    @classmethod
    @abstractmethod
    def load(cls, source: str | Path, *, device: str = "cpu") -> Self:
        """The pipeline of a folder, a single file or a hub id, frozen and in float32."""

    @classmethod
    @abstractmethod
    def tiny(cls) -> Self:
        """A pipeline of real classes with random weights, small enough for every test."""

    @abstractmethod
    def module(self, component: Component) -> nn.Module:
        """A part of the pipeline that an adapter attaches to."""

    @abstractmethod
    def with_module(self, component: Component, module: nn.Module) -> Self:
        """The same pipeline around another module, which is frozen; everything else is shared."""

    def with_vae(self, vae: nn.Module) -> Self:
        """The same pipeline around another autoencoder."""
        return self.with_module("vae", vae)

    @property
    def vae(self) -> nn.Module:
        """The autoencoder."""
        return self.module("vae")

    @property
    @abstractmethod
    def encoder_prefixes(self) -> tuple[str, ...]:
        """Paths below which the encoder's layers lie, seen from ``vae``."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width the model was made for."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @abstractmethod
    def vae_encoder(self) -> Surface:
        """Pixels to latents, the posterior mean after the family's scaling."""

    @abstractmethod
    def vae_posterior(self) -> Surface:
        """Pixels to posterior mean and standard deviation, both after the scaling."""

    @abstractmethod
    def autoencoder(self) -> Surface:
        """Pixels to reconstructed pixels."""

    @abstractmethod
    def edit(self, prompts: Sequence[str], settings: EditSettings) -> Surface:
        """Pixels to edited pixels; the sampler's noise comes from the seeds."""

    @abstractmethod
    def inpaint(self, prompts: Sequence[str], masks: Masks, settings: EditSettings) -> Surface:
        """Pixels to pictures repainted inside their masks."""

    @abstractmethod
    def denoiser(self, prompts: Sequence[str], *, jacobian: Jacobian = "exact") -> Surface:
        """Pixels to predicted noise minus noise; noise and timestep come from the seeds."""

    @abstractmethod
    def latent_and_residual(self, prompts: Sequence[str]) -> Surface:
        """Pixels to latents and what ``denoiser`` yields, half of the channels each."""

    @abstractmethod
    def early_denoiser(
        self, prompts: Sequence[str], settings: EditSettings, *, masks: Masks | None = None
    ) -> Surface:
        """Pixels to the noise predicted where the sampler begins.

        Args:
            prompts: One a picture.
            settings: Sampler and strength.
            masks: What an edit may repaint, one drawn a sample; ``None`` is image to image.
        """

    def surface(self, kind: str, prompts: Sequence[str], settings: EditSettings) -> Surface:
        """The surface an objective on pictures reads.

        Args:
            kind: Its ``surface_kind``.
            prompts: One a picture.
            settings: Sampler inside the graph, where there is one.

        Returns:
            A surface of this pipeline, with masks around the middle where it repaints.

        Raises:
            UnsupportedError: Pictures have no such surface.
        """
        side, n = self.image_size, len(prompts)
        match kind:
            case "vae_encoder":
                return self.vae_encoder()
            case "vae":
                return self.autoencoder()
            case "edit":
                return self.edit(prompts, settings)
            case "inpaint":
                return self.inpaint(prompts, around_the_middle(n, side), settings)
            case "denoiser":
                return self.denoiser(prompts)
            case "denoiser_shortcut":
                return self.denoiser(prompts, jacobian="shortcut")
            case "latent_and_residual":
                return self.latent_and_residual(prompts)
            case "early_denoiser":
                return self.early_denoiser(prompts, settings)
            case "early_inpaint":
                return self.early_denoiser(prompts, settings, masks=standard_masks(side))
            case "fine_tuning":
                return self.fine_tuning(prompts, FineTuneSettings(steps=_SURROGATE_STEPS))
            case "gated_fine_tuning":
                few = FineTuneSettings(steps=_SURROGATE_STEPS)
                return self.fine_tuning(prompts, few, readout="gated")
        hint = "prompts are attacked by other means; see loricate ls"
        raise UnsupportedError("an attack on pictures", by=f"the surface {kind!r}", hint=hint)

    @abstractmethod
    def text_encoder(self, *, window: int | None = None) -> PromptSurface:
        """Prompts to the hidden states the denoiser sees, at the first places or at all."""

    @abstractmethod
    def generation(self, settings: EditSettings) -> PromptSurface:
        """Prompts to pictures; the sampler's noise comes from the seeds."""

    @abstractmethod
    def denoising(self, images: Images, *, n_levels: int = 4) -> PromptSurface:
        """Prompts to the denoiser's errors on given pictures, one a prompt."""

    @abstractmethod
    def fine_tuning(
        self,
        prompts: Sequence[str],
        settings: FineTuneSettings,
        *,
        readout: Readout = "noise",
        seed: int = 0,
    ) -> Surrogate:
        """Pixels to noise predictions of a copy of the denoiser that learns from pictures.

        Args:
            prompts: Caption of each picture.
            settings: Rank, steps and rate of every ``adapt``.
            readout: What rows are made of.
            seed: Seed of the adapter's first factors.
        """

    @abstractmethod
    def denoising_residual(self, prompt: str = "", *, on_latents: bool = False) -> Surface:
        """Pixels, or latents, to predicted noise minus noise, with one prompt for all."""

    @abstractmethod
    def denoiser_features(self, latents: Tensor) -> Tensor:
        """What the denoiser's first block makes of clean latents: where drift would be felt."""

    @abstractmethod
    def generate(self, prompts: Sequence[str], seeds: Seeds, settings: EditSettings) -> Images:
        """Pictures from prompts alone."""
