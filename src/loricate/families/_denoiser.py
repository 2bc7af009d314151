"""Pixels as the denoiser meets them: its errors, and what it predicts first."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from loricate.basics.errors import ShapeError, UnsupportedError
from loricate.core.domain import PIXELS, Domain
from loricate.core.family import EditSettings, Jacobian
from loricate.core.generators import Seeds, generators
from loricate.core.inpainting import Masks, require_masks
from loricate.core.shapes import Batch, Images
from loricate.core.surface import Surface
from loricate.families._inpaint import Repainting, first_step
from loricate.families._noising import Denoising, Draws

if TYPE_CHECKING:
    from loricate.families.sd15 import SD15

__all__ = ["DenoiserSurface", "EarlyDenoiserSurface"]


@final
@dataclass(frozen=True)
class DenoiserSurface(Surface):
    """Pixels to predicted noise minus noise, at one uniform timestep a sample.

    Args:
        family: The pipeline.
        condition: Text embedding of each sample's prompt.
        jacobian: ``"exact"`` differentiates the denoiser; ``"shortcut"`` takes the error to have
            the identity as its derivative in the latents. Outputs are the same.
        with_latents: Put the latents in front, as as many channels.

    Source: the shortcut is that of Poole et al. 2023 [poole2023], equation 3.
    """

    family: "SD15"
    condition: Tensor
    jacobian: Jacobian = "exact"
    with_latents: bool = False

    @property
    def domain(self) -> Domain:
        """Pixels."""
        return PIXELS

    @property
    def is_random(self) -> bool:
        """Always: noise and timestep are drawn."""
        return True

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Errors, in the unit of the noise whatever the denoiser predicts."""
        require_one_prompt_each(x, self.condition)
        latents = self.family._encode(x)
        draws = self._denoising.draws(latents, seeds)
        residual = self._residual(latents, draws)
        return torch.cat([latents, residual], dim=1) if self.with_latents else residual

    @property
    def _denoising(self) -> Denoising:
        return Denoising(self.family._scheduler)

    def _residual(self, latents: Tensor, draws: Draws) -> Tensor:
        if self.jacobian == "exact":
            return self._error(latents, draws)
        with torch.no_grad():
            error = self._error(latents, draws)
        # Zero, but for its derivative.
        return error + (latents - latents.detach())

    def _error(self, latents: Tensor, draws: Draws) -> Tensor:
        noisy = self._denoising.noisy(latents, draws)
        unet = self.family.pipe.unet
        prediction = unet(noisy, draws.timesteps, encoder_hidden_states=self.condition).sample
        return self._denoising.noise_of(prediction, noisy, draws.timesteps) - draws.noise


@final
@dataclass(frozen=True)
class EarlyDenoiserSurface(Surface):
    """Pixels to the noise predicted where the sampler of an edit begins.

    Args:
        family: The pipeline.
        condition: Text embedding of each sample's prompt, without guidance.
        settings: Sampler and strength.
        masks: What is repainted, one drawn a sample; ``None`` is image to image.
    """

    family: "SD15"
    condition: Tensor
    settings: EditSettings
    masks: Masks | None = None

    def __post_init__(self) -> None:
        if first_step(self.settings) == self.settings.num_inference_steps:
            hint = "raise the strength, or the number of steps"
            raise UnsupportedError("an early step", by="an edit that takes none", hint=hint)
        if self.masks is not None:
            require_masks(self.masks)

    @property
    def domain(self) -> Domain:
        """Pixels."""
        return PIXELS

    @property
    def is_random(self) -> bool:
        """Always: the sampler starts from noise."""
        return True

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Predicted noise."""
        require_one_prompt_each(x, self.condition)
        family, painting = self.family, None
        if self.masks is not None:
            painting = Repainting.of(family, x, self._drawn(x, self.masks, seeds))
            x = painting.visible
        z, sampler = family._encode(x), family._sampler(self.settings)
        time = sampler.timesteps[first_step(self.settings)]
        noisy = sampler.add_noise(z, family._noise(z.shape[1:], seeds), time[None])
        inputs = painting.inputs(noisy) if painting else noisy
        prediction = family.pipe.unet(inputs, time, encoder_hidden_states=self.condition).sample
        return Denoising(sampler).noise_of(prediction, noisy, time.expand(len(x)))

    def _drawn(self, x: Images, masks: Masks, seeds: Seeds) -> Masks:
        require_masks(masks, x)
        draws = [torch.randint(len(masks), (), generator=g) for g in generators(seeds, "mask")]
        return masks[torch.stack(draws)].to(x)


def require_one_prompt_each(x: Batch, condition: Tensor) -> None:
    """Refuse a batch that is not the one the prompts were given for.

    Args:
        x: Pictures.
        condition: Text embeddings.

    Raises:
        ShapeError: Their numbers differ.
    """
    if len(x) != len(condition):
        raise ShapeError(f"{len(condition)} pictures, one a prompt", len(x), where="x")
