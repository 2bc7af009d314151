"""Repainting inside a mask, by denoisers that see the mask and by those that do not."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from loricate.basics.errors import ShapeError, UnsupportedError
from loricate.core.domain import PIXELS, Domain
from loricate.core.family import EditSettings
from loricate.core.generators import Seeds
from loricate.core.inpainting import Masks, require_masks
from loricate.core.shapes import Batch, Images
from loricate.core.surface import Surface

if TYPE_CHECKING:
    from loricate.families.sd15 import SD15

__all__ = ["InpaintSurface", "Repainting", "first_step"]


@final
@dataclass(frozen=True)
class Repainting:
    """Pictures with their masks, as a denoiser meets them.

    Args:
        visible: Pictures, gray where they are repainted.
        mask: Masks at the size of latents.
        shown: Mask and encoding of the visible part, where the denoiser takes them as further
            channels; ``None`` where it takes latents alone.
    """

    visible: Images
    mask: Tensor
    shown: Tensor | None

    @classmethod
    def of(cls, family: "SD15", x: Images, masks: Masks) -> "Repainting":
        """The pictures behind their masks.

        Args:
            family: The pipeline.
            x: Pictures.
            masks: What is repainted, one a picture.

        Returns:
            Both, at the sizes the denoiser needs.

        Raises:
            UnsupportedError: The denoiser has neither as many channels as latents, nor twice as
                many and one.
        """
        require_masks(masks, x)
        channels = family.pipe.unet.config.in_channels
        latent = family.pipe.vae.config.latent_channels
        if channels not in (latent, 2 * latent + 1):
            by = f"a denoiser with {channels} input channels for {latent} latent ones"
            raise UnsupportedError("inpainting", by=by)
        size = [side // family.pipe.vae_scale_factor for side in x.shape[2:]]
        visible = torch.where(masks > 0, 0.5, x)  # half is zero to the encoder
        mask = interpolate(masks, size=size)
        if channels == latent:
            return cls(visible, mask, None)
        return cls(visible, mask, torch.cat([mask, family._encode(visible)], dim=1))

    def inputs(self, z: Tensor) -> Tensor:
        """What the denoiser is given in place of latents."""
        return z if self.shown is None else torch.cat([z, self.shown], dim=1)


@final
@dataclass(frozen=True)
class InpaintSurface(Surface):
    """Pixels to pictures whose masked part is repainted.

    A denoiser made for it sees the mask and what is kept; any other has the kept part of the
    latents put back, noised, after every step.

    Args:
        family: The pipeline.
        condition: Text embeddings, one a sample, guidance included.
        masks: What is repainted, one a sample.
        settings: Sampler and strength.

    Source: diffusers' StableDiffusionInpaintPipeline, both branches; the posterior's mean is
    encoded where that samples it.
    """

    family: "SD15"
    condition: Tensor
    masks: Masks
    settings: EditSettings

    def __post_init__(self) -> None:
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
        """Repainted pictures in [0, 1]; saturated pixels keep a gradient."""
        if len(x) != len(self.masks):
            raise ShapeError(f"{len(self.masks)} pictures, one a mask", len(x), where="x")
        painting = Repainting.of(self.family, x, self.masks.to(x))
        z = self.family._encode(x)
        edited = self.family._decode(self._repainted(z, painting, seeds))
        return edited + (edited.clamp(0, 1) - edited).detach()

    def _repainted(self, known: Tensor, painting: Repainting, seeds: Seeds) -> Tensor:
        family, sampler = self.family, self.family._sampler(self.settings)
        times = sampler.timesteps[first_step(self.settings) :]
        noise = family._noise(known.shape[1:], seeds)
        if not len(times):
            return known
        starts_from_noise = len(times) == self.settings.num_inference_steps
        z = noise if starts_from_noise else sampler.add_noise(known, noise, times[:1])
        for time, following in zip(times, [*times[1:, None], None], strict=True):
            prediction = family._predict(
                painting.inputs(z), int(time), self.condition, self.settings
            )
            z = sampler.step(prediction, int(time), z).prev_sample
            if painting.shown is None:
                kept = known if following is None else sampler.add_noise(known, noise, following)
                z = torch.where(painting.mask > 0, z, kept)
        return z


def first_step(settings: EditSettings) -> int:
    """Steps of the schedule that an edit of some strength leaves out."""
    n = settings.num_inference_steps
    return n - int(n * settings.strength)
