"""What a gated adapter is trained on, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from loricate.core.generators import Seeds
from loricate.core.shapes import Batch, PerSample
from loricate.core.training import TrainingLog
from loricate.surfaces.gated import GatedAttached

__all__ = ["GatedTarget", "GatedTrained"]


@final
@dataclass(frozen=True)
class GatedTarget:
    """What is protected and where the gates go.

    Args:
        module: Denoiser, frozen.
        paths: Its Linear layers that are updated.
        error: Training error of ``module`` as it stands on latents of some pictures, given their
            indices and seeds.
    """

    module: nn.Module
    paths: tuple[str, ...]
    error: Callable[[Batch, Tensor, Seeds], PerSample]


@final
@dataclass(frozen=True)
class GatedTrained:
    """A trained gated adapter on its module.

    Args:
        attached: The updates.
        log: How they came about.
    """

    attached: GatedAttached
    log: TrainingLog
