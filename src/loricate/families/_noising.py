"""Latents with noise, and what a denoiser should say of them."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from loricate.core.generators import Seeds, generators

__all__ = ["Denoising", "Draws"]


@dataclass(frozen=True)
class Draws:
    """Noise and timesteps, one of each a sample.

    Args:
        noise: What is added to latents.
        timesteps: How much of it.
    """

    noise: Tensor
    timesteps: Tensor


@final
@dataclass(frozen=True)
class Denoising:
    """What a denoiser is trained for, whatever it predicts.

    Args:
        scheduler: Noise levels and type of the prediction, of diffusers.
    """

    scheduler: Any

    def draws(self, latents: Tensor, seeds: Seeds) -> Draws:
        """Noise and uniform timesteps of each sample."""
        given = generators(seeds, "denoising")
        levels = self.scheduler.config.num_train_timesteps
        timesteps = [torch.randint(levels, (), generator=g) for g in given]
        noise = [torch.randn(latents.shape[1:], generator=g) for g in given]
        return Draws(torch.stack(noise).to(latents), torch.stack(timesteps).to(latents.device))

    def noisy(self, latents: Tensor, draws: Draws) -> Tensor:
        """Latents with noise."""
        noisy: Tensor = self.scheduler.add_noise(latents, draws.noise, draws.timesteps)
        return noisy

    def target(self, latents: Tensor, draws: Draws) -> Tensor:
        """What the denoiser should predict: the noise, or the velocity."""
        if self.scheduler.config.prediction_type == "epsilon":
            return draws.noise
        velocity: Tensor = self.scheduler.get_velocity(latents, draws.noise, draws.timesteps)
        return velocity

    def noise_of(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """The noise a prediction stands for."""
        if self.scheduler.config.prediction_type == "epsilon":
            return prediction
        share: Tensor = self.scheduler.alphas_cumprod.to(noisy)[timesteps].view(-1, 1, 1, 1)
        return share.sqrt() * prediction + (1 - share).sqrt() * noisy
