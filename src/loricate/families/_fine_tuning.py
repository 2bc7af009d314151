"""A denoiser that is fine-tuned on a few pictures, as a surface."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from loricate.adapters.adapter import Adapter
from loricate.basics.errors import ConfigError, ConfigProblem, ShapeError
from loricate.basics.seeds import derive_seed
from loricate.core.domain import PIXELS, Domain
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.core.surrogate import FineTuneSettings, Readout, Surrogate
from loricate.families._noising import Denoising
from loricate.surfaces.attach import Attached, attach, merged_copy, target_layers
from loricate.surfaces.gated import watched

__all__ = [
    "DenoisingError",
    "DenoisingResidual",
    "FineTunedDenoiser",
    "attention_layers",
]


@final
@dataclass(frozen=True)
class DenoisingError:
    """Mean squared error of a denoiser's prediction, as training descends it.

    Args:
        denoiser: As it stands, adapters included.
        denoising: Noise levels and prediction type.
        condition: Text embedding of each picture's prompt.
    """

    denoiser: nn.Module
    denoising: Denoising
    condition: Tensor

    def __call__(self, latents: Tensor, rows: Tensor, seeds: Seeds) -> PerSample:
        """Error of each sample.

        Args:
            latents: Clean latents of some pictures.
            rows: Which pictures those are.
            seeds: Seeds of noise and timestep, one a sample.
        """
        draws = self.denoising.draws(latents, seeds)
        noisy = self.denoising.noisy(latents, draws)
        prediction = self.predict(noisy, draws.timesteps, rows)
        return (prediction - self.denoising.target(latents, draws)).flatten(1).pow(2).mean(1)

    def predict(self, noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        """What the denoiser says, noise or velocity."""
        condition = self.condition[rows]
        output: Tensor = self.denoiser(noisy, timesteps, encoder_hidden_states=condition).sample
        return output


@final
@dataclass(frozen=True)
class DenoisingResidual(Surface):
    """Predicted minus true for any number of samples that share one prompt.

    Args:
        error: With the condition of that prompt.
        encode: Pixels to latents; ``None`` where inputs are latents.
    """

    error: DenoisingError
    encode: Callable[[Batch], Tensor] | None

    @property
    def domain(self) -> Domain:
        """Pixels, or latents, which have no box."""
        return PIXELS if self.encode else Domain("latent", -math.inf, math.inf)

    @property
    def is_random(self) -> bool:
        """Always: noise and timestep are drawn."""
        return True

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Residual of each sample, differentiable in it."""
        latents = self.encode(x) if self.encode else x
        draws = self.error.denoising.draws(latents, seeds)
        noisy = self.error.denoising.noisy(latents, draws)
        rows = torch.zeros(len(x), dtype=torch.long)
        prediction = self.error.predict(noisy, draws.timesteps, rows)
        return prediction - self.error.denoising.target(latents, draws)


@final
class FineTunedDenoiser(Surrogate):
    """Pixels to what a denoiser makes of their noised latents.

    Read as ``"residual"``, rows are predicted minus added noise; as ``"noise"``, predicted noise
    and latents side by side along the channels; as ``"gated"``, the mean gate of the denoiser in
    a channel of its own before those.

    A copy of the denoiser learns through a low-rank adapter in its attention layers; the base is
    never written to.

    Args:
        denoiser: Base, copied.
        encode: Pixels to scaled latents.
        denoising: Noise levels and prediction type.
        condition: Text embedding of each sample's prompt.
        settings: Rank, steps and rate of every ``adapt``.
        readout: What rows are made of.
        seed: Seed of the adapter's first factors.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        encode: Callable[[Batch], Tensor],
        denoising: Denoising,
        condition: Tensor,
        settings: FineTuneSettings,
        *,
        readout: Readout = "noise",
        seed: int = 0,
    ) -> None:
        self.denoiser = copy.deepcopy(denoiser)
        self.denoising = denoising
        self._encode = encode
        self._error = DenoisingError(self.denoiser, denoising, condition)
        self._settings = settings
        self._readout = readout
        self._seed = seed
        self._attached: Attached | None = None
        self.reset()

    @property
    def domain(self) -> Domain:
        """Pixels."""
        return PIXELS

    @property
    def is_random(self) -> bool:
        """Always: noise and timestep are drawn."""
        return True

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Rows as the readout says, each with its own noise and timestep."""
        latents = self._encode(x)
        draws = self.denoising.draws(latents, seeds)
        noisy = self.denoising.noisy(latents, draws)
        with watched(self.denoiser) as gates:
            prediction = self._error.predict(noisy, draws.timesteps, self._rows(x))
        noise = self.denoising.noise_of(prediction, noisy, draws.timesteps)
        if self._readout == "residual":
            return noise - draws.noise
        if self._readout == "noise":
            return torch.cat([noise, latents], dim=1)
        gate = gates.mean().view(-1, 1, 1, 1).expand_as(latents[:, :1])
        return torch.cat([gate, noise, latents], dim=1)

    @torch.no_grad()
    def loss(self, x: Batch, seeds: Seeds) -> PerSample:
        """Denoising error of each picture."""
        return self._error(self._encode(x), self._rows(x), seeds)

    def adapt(self, x: Batch, seeds: Seeds) -> None:
        """Fine-tune for as many steps as the settings say, continuing where it left off."""
        with torch.no_grad():
            latents = self._encode(x)
        n = len(self._rows(x))
        for step in range(self._settings.steps):
            generator = torch.Generator().manual_seed(derive_seed(0, "tune", *seeds, step))
            rows = _spread(n, self._settings.batch_size, generator)
            row_seeds = torch.randint(2**62, (len(rows),), generator=generator).tolist()
            loss = self._error(latents[rows], rows, row_seeds).mean()
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()

    def reset(self) -> None:
        """The base again, with a fresh adapter that changes nothing."""
        if self._attached is not None:
            self._attached.detach()
        ranks = dict.fromkeys(attention_layers(self.denoiser), self._settings.rank)
        self._attached = attach(self.denoiser, ranks, seed=self._seed)
        self._optimizer = torch.optim.AdamW(
            self._attached.parameters(), lr=self._settings.learning_rate, weight_decay=1e-2
        )

    def adapter(self, component: str = "unet") -> Adapter:
        """What was learned, as a value that can be saved."""
        assert self._attached is not None
        return self._attached.adapter(component)

    def merged(self) -> nn.Module:
        """A copy of the denoiser with what was learned in its weights."""
        assert self._attached is not None
        return merged_copy(self._attached)

    def _rows(self, x: Batch) -> Tensor:
        n = len(self._error.condition)
        if len(x) != n:
            raise ShapeError(f"{n} pictures, one a prompt", len(x), where="x")
        return torch.arange(n)


def attention_layers(module: nn.Module) -> tuple[str, ...]:
    """Projections of self- and cross-attention, which is what users' adapters update.

    Args:
        module: A denoiser.

    Returns:
        Dotted paths.

    Raises:
        ConfigError: It has no attention.
    """
    names = tuple(p for p in target_layers(module) if ".attn" in p and ".to_" in p)
    if not names:
        expected, got = "a denoiser with attention layers", type(module).__name__
        raise ConfigError(ConfigProblem(key="denoiser", expected=expected, got=got))
    return names


def _spread(n: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` indices below ``n``, each as often as the others, give or take one."""
    rounds = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
    return torch.cat(rounds)[:count]
