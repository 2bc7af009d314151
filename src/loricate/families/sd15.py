"""Stable Diffusion 1.x, and the embedded model of the same anatomy."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, final

import torch
from torch import Tensor, nn

from loricate.basics.errors import PrerequisiteError, ShapeError, UnsupportedError
from loricate.core.domain import PIXELS, Domain
from loricate.core.family import Component, EditSettings, Family, Jacobian
from loricate.core.generators import Seeds, generators
from loricate.core.inpainting import Masks
from loricate.core.prompt_surface import PromptSurface
from loricate.core.shapes import Batch, Images
from loricate.core.surface import Surface
from loricate.core.surrogate import FineTuneSettings, Readout
from loricate.families._denoiser import DenoiserSurface, EarlyDenoiserSurface
from loricate.families._fine_tuning import (
    DenoisingError,
    DenoisingResidual,
    FineTunedDenoiser,
)
from loricate.families._inpaint import InpaintSurface
from loricate.families._noising import Denoising
from loricate.families._prompts import GenerationSurface, TextEncoderSurface, denoising_surface
from loricate.families._quiet import quiet
from loricate.families._tokenizing import TOKENIZING
from loricate.surfaces.module import ModuleSurface

with quiet():  # diffusers asks for torchvision when it is first imported, and does not need it
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    from loricate.families._tiny import tiny_pipeline

__all__ = ["SD15"]

_INDEX: Final = "model_index.json"


@final
class SD15(Family):
    """Stable Diffusion 1.x: AutoencoderKL, CLIP text encoder, cross-attention denoiser.

    Args:
        pipe: The loaded pipeline; it is frozen and put in evaluation mode.
    """

    encoder_prefixes = ("encoder.", "quant_conv")

    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        kind = pipe.scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            hint = "use a scheduler config with the prediction type the denoiser was trained for"
            raise UnsupportedError(f"prediction type {kind!r}", by="this family", hint=hint)
        self.pipe = pipe
        for module in (pipe.vae, pipe.unet, pipe.text_encoder):
            module.requires_grad_(False).eval()
        pipe.set_progress_bar_config(disable=True)
        self._scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)

    @classmethod
    def load(cls, source: str | Path, *, device: str = "cpu") -> Self:
        """The pipeline of a folder, a single file or a hub id.

        A single file has weights alone. Configs and tokenizer are those of its folder, if there
        is a ``model_index.json`` in it, as in repositories that offer both; else a hub is asked.

        Args:
            source: Where it comes from; safetensors only.
            device: Where it goes.

        Returns:
            The family, frozen and in float32.

        Raises:
            PrerequisiteError: There is no such pipeline.
        """
        _require_pipeline_if_local(Path(source))
        try:
            with quiet():
                # Half precision is how weights are shipped, not how they are attacked.
                pipe = _load(source).to(device, torch.float32)
        except (OSError, ValueError, SingleFileComponentError) as error:
            raise _no_pipeline(source, str(error)) from error
        return cls(pipe)

    @classmethod
    def tiny(cls) -> Self:
        """Random weights, 32 x 32 pictures; the same every time."""
        torch_state = torch.random.get_rng_state()
        torch.manual_seed(0)
        try:
            return cls(tiny_pipeline())
        finally:
            torch.random.set_rng_state(torch_state)

    def module(self, component: Component) -> nn.Module:
        """The autoencoder, text encoder or denoiser."""
        module: nn.Module = getattr(self.pipe, component)
        return module

    def with_module(self, component: Component, module: nn.Module) -> Self:
        """The same pipeline around another module, which is frozen too."""
        parts = self.pipe.components | {component: module}
        return type(self)(StableDiffusionPipeline(**parts, requires_safety_checker=False))

    @property
    def image_size(self) -> int:
        """Height and width the denoiser was trained for."""
        return int(self.pipe.unet.config.sample_size * self.pipe.vae_scale_factor)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(self.pipe.device)

    @property
    def _scale(self) -> float:
        return float(self.pipe.vae.config.scaling_factor)

    def vae_encoder(self) -> Surface:
        """Pixels to scaled posterior means."""
        return ModuleSurface(self._encode)

    def vae_posterior(self) -> Surface:
        """Pixels to posterior mean and standard deviation, along the channels."""
        return ModuleSurface(self._posterior)

    def autoencoder(self) -> Surface:
        """Pixels to reconstructed pixels, not clipped."""
        return ModuleSurface(lambda x: self._decode(self._encode(x)))

    def edit(self, prompts: Sequence[str], settings: EditSettings) -> Surface:
        """Image-to-image with one prompt a sample."""
        with torch.no_grad():
            return EditSurface(self, self._condition(prompts, settings), settings)

    def inpaint(self, prompts: Sequence[str], masks: Masks, settings: EditSettings) -> Surface:
        """Repainting with one prompt and one mask a sample."""
        with torch.no_grad():
            return InpaintSurface(self, self._condition(prompts, settings), masks, settings)

    def denoiser(self, prompts: Sequence[str], *, jacobian: Jacobian = "exact") -> Surface:
        """Predicted noise minus noise, with one prompt a sample."""
        with torch.no_grad():
            return DenoiserSurface(self, self._embed(list(prompts)), jacobian)

    def latent_and_residual(self, prompts: Sequence[str]) -> Surface:
        """Latents, then predicted noise minus noise."""
        with torch.no_grad():
            return DenoiserSurface(self, self._embed(list(prompts)), with_latents=True)

    def early_denoiser(
        self, prompts: Sequence[str], settings: EditSettings, *, masks: Masks | None = None
    ) -> Surface:
        """Noise predicted at the first step, without guidance."""
        with torch.no_grad():
            return EarlyDenoiserSurface(self, self._embed(list(prompts)), settings, masks)

    def text_encoder(self, *, window: int | None = None) -> PromptSurface:
        """Prompts to final hidden states."""
        return TextEncoderSurface(self, window)

    def generation(self, settings: EditSettings) -> PromptSurface:
        """Prompts to pictures."""
        return GenerationSurface(self, settings)

    def denoising(self, images: Images, *, n_levels: int = 4) -> PromptSurface:
        """Prompts to the denoiser's errors."""
        return denoising_surface(self, images, n_levels)

    def fine_tuning(
        self,
        prompts: Sequence[str],
        settings: FineTuneSettings,
        *,
        readout: Readout = "noise",
        seed: int = 0,
    ) -> FineTunedDenoiser:
        """Pixels to noise predictions of a copy of the denoiser that learns from pictures."""
        with torch.no_grad():
            condition = self._embed(list(prompts))
        return FineTunedDenoiser(
            self.pipe.unet,
            self._encode,
            Denoising(self._scheduler),
            condition,
            settings,
            readout=readout,
            seed=seed,
        )

    def denoising_error(self, prompts: Sequence[str]) -> DenoisingError:
        """Error of the denoiser on pictures with these prompts."""
        with torch.no_grad():
            condition = self._embed(list(prompts))
        return DenoisingError(self.pipe.unet, Denoising(self._scheduler), condition)

    def denoising_residual(self, prompt: str = "", *, on_latents: bool = False) -> Surface:
        """Predicted minus true of pictures, or of latents, that share one prompt."""
        encode = None if on_latents else self._encode
        return DenoisingResidual(self.denoising_error([prompt]), encode)

    def denoiser_features(self, latents: Tensor) -> Tensor:
        """Output of the first residual block, at timestep 0."""
        unet = self.pipe.unet
        # At timestep 0: the anchor compares clean latents.
        time = unet.time_embedding(unet.time_proj(latents.new_zeros(len(latents))))
        x = unet.conv_in(latents)
        features: Tensor = unet.down_blocks[0].resnets[0](x, time)
        return features

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], seeds: Seeds, settings: EditSettings) -> Images:
        """Pictures from prompts alone, by DDIM without added noise."""
        return self.sampled(self._condition(prompts, settings), seeds, settings).clamp(0, 1)

    def sampled(self, condition: Tensor, seeds: Seeds, settings: EditSettings) -> Images:
        """Pictures from text embeddings, not clipped.

        Args:
            condition: One row a picture; with guidance, those of the empty prompt come first.
            seeds: One a picture.
            settings: Sampler and guidance.
        """
        shape = (self.pipe.unet.config.in_channels, *[self.pipe.unet.config.sample_size] * 2)
        z = self._noise(shape, seeds)
        return self._decode(self._denoise(z, condition, settings, first=0))

    def _encode(self, x: Batch) -> Tensor:
        _require_rgb(x, self.pipe.vae_scale_factor)
        mean: Tensor = self.pipe.vae.encode(x * 2 - 1).latent_dist.mean
        return mean * self._scale

    def _posterior(self, x: Batch) -> Tensor:
        _require_rgb(x, self.pipe.vae_scale_factor)
        posterior = self.pipe.vae.encode(x * 2 - 1).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1) * self._scale

    def _decode(self, z: Tensor) -> Images:
        sample: Tensor = self.pipe.vae.decode(z / self._scale).sample
        return sample / 2 + 0.5

    def _noise(self, shape: Sequence[int], seeds: Seeds) -> Tensor:
        rows = [torch.randn(tuple(shape), generator=g) for g in generators(seeds, "sampler")]
        return torch.stack(rows).to(self.pipe.device)

    def _condition(self, prompts: Sequence[str], settings: EditSettings) -> Tensor:
        """Text embeddings; with guidance, those of the empty prompt come first."""
        given = self._embed(list(prompts))
        if settings.guidance == 1.0:
            return given
        return torch.cat([self._embed([""]).expand_as(given), given])

    def _embed(self, prompts: list[str]) -> Tensor:
        with TOKENIZING:
            tokens = self.pipe.tokenizer(
                prompts,
                padding="max_length",
                truncation=True,
                max_length=self.pipe.tokenizer.model_max_length,
                return_tensors="pt",
            )
        hidden: Tensor = self.pipe.text_encoder(tokens.input_ids.to(self.pipe.device))[0]
        return hidden

    def _denoise(self, z: Tensor, condition: Tensor, settings: EditSettings, first: int) -> Tensor:
        """The sampler from its ``first`` step on; DDIM without added noise."""
        sampler = self._sampler(settings)
        for timestep in sampler.timesteps[first:].tolist():
            prediction = self._predict(z, timestep, condition, settings)
            z = sampler.step(prediction, timestep, z).prev_sample
        return z

    def _sampler(self, settings: EditSettings) -> DDIMScheduler:
        """A scheduler of its own for each call: it keeps its timesteps, and threads differ."""
        sampler = copy.copy(self._scheduler)
        sampler.set_timesteps(settings.num_inference_steps)
        return sampler

    def _predict(self, z: Tensor, timestep: int, condition: Tensor, s: EditSettings) -> Tensor:
        copies = len(condition) // len(z)  # 2 with guidance
        inputs = torch.cat([z] * copies)
        output: Tensor = self.pipe.unet(inputs, timestep, encoder_hidden_states=condition).sample
        if s.guidance == 1.0:
            return output
        free, given = output.chunk(2)
        return free + s.guidance * (given - free)


@final
@dataclass(frozen=True)
class EditSurface(Surface):
    """Image-to-image as deployed: encode, add noise, denoise, decode.

    The posterior mean is encoded, where diffusers samples it; the noise of the sampler is the
    only randomness.

    Args:
        family: The pipeline.
        condition: Text embeddings, one a sample, guidance included.
        settings: Sampler and strength.
    """

    family: SD15
    condition: Tensor
    settings: EditSettings

    @property
    def domain(self) -> Domain:
        """Pixels."""
        return PIXELS

    @property
    def is_random(self) -> bool:
        """Always: the sampler starts from noise."""
        return True

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Edited pictures in [0, 1]."""
        family, settings = self.family, self.settings
        z = family._encode(x)
        first = settings.num_inference_steps - int(settings.num_inference_steps * settings.strength)
        if first < settings.num_inference_steps:
            sampler = family._sampler(settings)
            start = sampler.timesteps[first : first + 1]
            z = sampler.add_noise(z, family._noise(z.shape[1:], seeds), start)
            z = family._denoise(z, self.condition, settings, first)
        edited = family._decode(z)
        # Saturated pixels keep a gradient: an attacker would not let the clamp hide it.
        return edited + (edited.clamp(0, 1) - edited).detach()


def _require_rgb(x: Batch, factor: int) -> None:
    fits = x.ndim == 4 and x.shape[1] == 3 and x.shape[2] % factor == x.shape[3] % factor == 0
    if not fits:
        raise ShapeError(
            f"RGB images (n, 3, height, width) with sides divisible by {factor}",
            tuple(x.shape),
            hint="resize or pad the images; convert gray or RGBA ones to RGB",
        )


def _load(source: str | Path) -> StableDiffusionPipeline:
    if Path(source).suffix == ".safetensors":
        return StableDiffusionPipeline.from_single_file(
            str(source), safety_checker=None, **_configs_beside(Path(source))
        )
    return StableDiffusionPipeline.from_pretrained(
        str(source), use_safetensors=True, safety_checker=None, requires_safety_checker=False
    )


def _configs_beside(file: Path) -> dict[str, str | bool]:
    """The folder of a single file, where it has the configs that would come from a hub."""
    if not (file.parent / _INDEX).is_file():
        return {}
    return {"config": str(file.parent), "local_files_only": True}


def _require_pipeline_if_local(path: Path) -> None:
    """Refuse what is plainly a path but no pipeline, before a hub is asked about it."""
    if path.is_dir() and not (path / _INDEX).is_file():
        raise _no_pipeline(path, f"the folder has no {_INDEX}")
    is_plainly_a_path = (
        path.is_absolute() or path.suffix == ".safetensors" or path.parts[:1] == ("..",)
    )
    if is_plainly_a_path and not path.exists():
        raise _no_pipeline(path, "there is nothing")


def _no_pipeline(source: str | Path, why: str) -> PrerequisiteError:
    return PrerequisiteError(
        f"a Stable Diffusion 1.x pipeline at {str(source)!r} ({why})",
        remedy="give a diffusers folder, a hub id you can reach, or a .safetensors file; offline, "
        "with the configs and the tokenizer of its pipeline in the same folder",
    )
