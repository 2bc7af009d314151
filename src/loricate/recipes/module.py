"""Harden or attack any torch encoder, without a pipeline around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import nn

from loricate.adapters.adapter import Adapter
from loricate.attacks.pgd import PGD
from loricate.basics.errors import ConfigError, ConfigProblem, UnsupportedError
from loricate.basics.quantities import parse_pixel_length
from loricate.core.balls import ball
from loricate.core.domain import PIXELS
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images
from loricate.core.threat import ThreatModel
from loricate.core.training import Observer, TrainingLog, silent
from loricate.defenses._target import Target
from loricate.defenses.adversarial_lora import AdversarialLora
from loricate.objectives.latent_shift import LatentShift
from loricate.recipes._defaults import CAUTIOUS_RATE, default_spec
from loricate.surfaces.attach import Attached, merged_copy, target_layers
from loricate.surfaces.module import ModuleSurface

__all__ = ["HardenedModule", "attack_module", "harden_module"]

_ATTACK_BATCH: Final = 64


@dataclass(frozen=True)
class HardenedModule:
    """A module with a trained adapter on it.

    Args:
        module: The module given, adapter attached.
        adapter: The update as a value, for files.
        log: Curves, ranks and time of the training.
    """

    module: nn.Module
    adapter: Adapter
    log: TrainingLog
    _attached: Attached

    def merged(self) -> nn.Module:
        """A copy with the update written into plain weights; the original keeps its adapter."""
        return merged_copy(self._attached)

    def detach(self) -> nn.Module:
        """The module with its own weights back, bit for bit."""
        return self._attached.detach()

    def set_gain(self, gain: float) -> None:
        """Multiply the update; 0 is the exact off switch."""
        self._attached.set_gain(gain)


def harden_module(
    module: nn.Module,
    images: Images,
    *,
    epsilon: float | str = 4 / 255,
    rank: int = 16,
    steps: int = 400,
    seed: int = 0,
    max_drift: float = 0.07,
    spec: AdversarialLora | None = None,
    observe: Observer = silent,
    checkpoint: Path | None = None,
) -> HardenedModule:
    """Train a low-rank adapter that keeps an encoder's outputs in place under attack.

    Args:
        module: From (n, 3, height, width) in [0, 1] to one tensor row a sample; any module of
            Linear and Conv2d layers. Its weights are not written to.
        images: Calibration pictures in [0, 1], a few hundred at least.
        epsilon: Linf radius to withstand; ``"4/255"`` will do.
        rank: Largest rank of a layer's update.
        steps: Training steps.
        seed: Seed of every draw.
        max_drift: Clean drift aimed at, relative to the spread of outputs.
        spec: Everything else; replaces ``epsilon``, ``steps`` and ``max_drift``.
        observe: Told about every step.
        checkpoint: File from which a killed run continues.

    Returns:
        The module with its adapter attached.

    Raises:
        ConfigError: A value is out of range, or no layer can be updated.
        NumericalError: Images hold NaN or leave [0, 1], or the loss diverges.
        ShapeError: The module does not return one row a picture.
        UnsupportedError: Module or images are in half precision.
    """
    _require(module, images)
    if rank < 1:
        raise ConfigError(ConfigProblem(key="rank", expected="an integer of at least 1", got=rank))
    chosen = spec or default_spec(
        epsilon=epsilon, steps=steps, max_drift=max_drift, learning_rate=CAUTIOUS_RATE
    )
    ranks = dict.fromkeys(target_layers(module), rank)
    target = Target(module, ModuleSurface(module), ranks=ranks)
    with _frozen(module):
        trained = chosen.train(target, images, seed=seed, observe=observe, checkpoint=checkpoint)
    for factor in trained.attached.parameters():
        factor.requires_grad_(False)
    return HardenedModule(module, trained.attached.adapter(), trained.log, trained.attached)


def attack_module(
    module: nn.Module,
    images: Images,
    *,
    epsilon: float | str = 4 / 255,
    steps: int = 50,
    n_restarts: int = 2,
    norm: str = "linf",
    seed: int = 0,
) -> Images:
    """Pictures that move an encoder's outputs as far as a budget allows.

    Args:
        module: From (n, 3, height, width) in [0, 1] to one tensor row a sample.
        images: Clean pictures in [0, 1].
        epsilon: Radius in pixel units; ``"4/255"`` will do.
        steps: Gradient steps a restart.
        n_restarts: Independent starts; the best of each picture is kept.
        norm: ``"linf"`` or ``"l2"``.
        seed: Seed of every draw.

    Returns:
        Adversarial pictures inside the ball; where the clean ones are 8-bit pictures, so are
        these.

    Raises:
        ConfigError: A value is out of range.
        NumericalError: Images hold NaN or leave [0, 1].
        UnsupportedError: Module or images are in half precision.
    """
    _require(module, images)
    attack = PGD(steps=steps, n_restarts=n_restarts)
    threat = ThreatModel(ball=ball(norm, parse_pixel_length(epsilon)))
    surface = ModuleSurface(module)
    with _frozen(module):
        results = [
            attack(surface, LatentShift(), threat, chunk, seeds=sample_seeds(seed, indices))
            for indices, chunk in _chunks(images)
        ]
    return torch.cat([result.adversarial for result in results])


def _require(module: nn.Module, images: Images) -> None:
    """Refuse what is no picture, and what rounds more coarsely than budgets are checked."""
    PIXELS.require(images)
    kinds = {each.dtype for each in (images, *module.parameters()) if each.is_floating_point()}
    if halves := kinds & {torch.float16, torch.bfloat16}:
        hint = "pass images.float() and module.float(); results may be cast back"
        raise UnsupportedError(f"{halves.pop()}", by="attacks inside a budget", hint=hint)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for weights inside the block, as it was behind it."""
    training = {part: part.training for part in module.modules()}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval().requires_grad_(False)
    try:
        yield
    finally:
        for part, was_training in training.items():
            part.training = was_training
        for parameter in trainable:
            parameter.requires_grad_(True)


def _chunks(images: Images) -> Iterator[tuple[range, Images]]:
    """Batches with the indices of their pictures."""
    for first in range(0, len(images), _ATTACK_BATCH):
        chunk = images[first : first + _ATTACK_BATCH]
        yield range(first, first + len(chunk)), chunk
