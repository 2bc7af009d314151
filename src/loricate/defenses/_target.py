"""What training works on, and the unit its losses are measured in."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from loricate.basics.seeds import derive_seed
from loricate.core.batches import fitting
from loricate.core.shapes import Images, PerSample
from loricate.core.surface import Surface
from loricate.core.training import TrainingLog
from loricate.lowrank.budget import Budget
from loricate.lowrank.spectrum import singular_values
from loricate.surfaces.attach import (
    Attached,
    attach,
    attach_dense,
    matrix_shapes,
    target_layers,
)

__all__ = ["Reference", "Target", "Trained", "augmented", "batch_rows", "started"]

_TINY = 1e-12
_SHIFT = 2


@final
@dataclass(frozen=True)
class Target:
    """What is protected, and where the adapter goes.

    Args:
        module: Holds the layers; frozen.
        surface: Pixels to outputs, through ``module`` as it stands.
        prefixes: Paths below which layers are updated.
        ranks: Rank of each layer, fixed; ``None`` leaves the choice to the spectra.
        is_dense: Update every layer at full rank instead: the upper line adapters are held to.
        encoder: Pixels to latents through ``module``, for defenses of autoencoders that hold on to
            them.
    """

    module: nn.Module
    surface: Surface
    prefixes: tuple[str, ...] = ("",)
    ranks: Mapping[str, int] | None = None
    is_dense: bool = False
    encoder: Surface | None = None


@final
@dataclass(frozen=True)
class Trained:
    """A trained adapter on its module.

    Args:
        attached: The updates.
        log: How they came about.
    """

    attached: Attached
    log: TrainingLog


@final
@dataclass(frozen=True)
class Reference:
    """The unit in which drift is measured.

    Args:
        energy: Mean squared norm of the per-channel-centered outputs.
    """

    energy: float

    @classmethod
    def of(cls, surface: Surface, images: Images, batch_size: int = 64) -> Self:
        """The unit of a surface on some images."""
        chunks = images.split(fitting(batch_size, images))
        outputs = torch.cat([surface(c, [0] * len(c)) for c in chunks])
        axes = tuple(i for i in range(outputs.ndim) if i != 1)
        centered = outputs - outputs.mean(axes, keepdim=True)
        return cls(max(float(centered.flatten(1).pow(2).sum(1).mean()), _TINY))

    def drift(self, output: Tensor, base: Tensor) -> PerSample:
        """Squared drift of each sample."""
        return (output - base).flatten(1).pow(2).sum(1) / self.energy


def batch_rows(n: int, batch_size: int, *, seed: int, step: int) -> Tensor:
    """Which pictures a step works on.

    Args:
        n: Pictures there are.
        batch_size: Pictures wanted; all where there are fewer.
        seed: Seed of the training.
        step: Step of the training.

    Returns:
        Distinct indices.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "batch", step))
    return torch.randperm(n, generator=generator)[:batch_size]


def augmented(x: Images, seed: int, step: int) -> Images:
    """Mirrored and shifted by up to two pixels: calibration sets are small."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "augment", step))
    if bool(torch.rand((), generator=generator) < 0.5):
        x = x.flip(-1)
    rows, columns = torch.randint(0, 2 * _SHIFT + 1, (2,), generator=generator).tolist()
    padded = torch.nn.functional.pad(x, (_SHIFT,) * 4, mode="replicate")
    return padded[..., rows : rows + x.shape[-2], columns : columns + x.shape[-1]].contiguous()


@contextmanager
def started(
    target: Target, budgets: tuple[Budget, Budget], *, seed: int
) -> Iterator[tuple[Attached, dict[str, int], tuple[Budget, Budget]]]:
    """Attach untrained updates, with ranks as given or as the spectra of the weights ask.

    They stay on the module after the block, unless it ends in an error.

    Args:
        target: Where to.
        budgets: Parameter budget at the start and at the end of the training.
        seed: Seed of the factors.

    Yields:
        The updates, their ranks, and the budgets: equal ones where ranks are not up for change.
    """
    attached, ranks, budgets = _start(target, budgets, seed=seed)
    try:
        yield attached, ranks, budgets
    except BaseException:
        attached.detach()
        raise


def _start(
    target: Target, budgets: tuple[Budget, Budget], *, seed: int
) -> tuple[Attached, dict[str, int], tuple[Budget, Budget]]:
    layers = target_layers(target.module, target.prefixes)
    shapes = matrix_shapes(layers)
    if target.is_dense:
        ranks = {path: min(shape) for path, shape in shapes.items()}
        return attach_dense(target.module, shapes), ranks, (budgets[1], budgets[1])
    if target.ranks is not None:
        fixed = {path: min(k, *shapes[path]) for path, k in target.ranks.items()}
        return attach(target.module, fixed, seed=seed), fixed, (budgets[1], budgets[1])
    spectra = {path: singular_values(layer.weight.flatten(1)) for path, layer in layers.items()}
    chosen = budgets[0].from_spectra(spectra, shapes)
    return attach(target.module, chosen, seed=seed), chosen, budgets
