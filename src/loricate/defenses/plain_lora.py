"""Low-rank adapters trained without an attack: the control of equal steps."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from loricate.core.shapes import Images
from loricate.defenses._adapter_defense import AdapterDefense
from loricate.defenses._target import Target, augmented, batch_rows
from loricate.defenses._training import LossesOfStep
from loricate.surfaces.attach import Attached

__all__ = ["PlainLora"]


@final
@dataclass(frozen=True, kw_only=True)
class PlainLora(AdapterDefense):
    """Fine-tunes on clean pictures to reproduce them better; nothing is attacked.

    Same layers, ranks and steps as the adapter it stands beside, so what it does not gain is not
    due to more training. The surface of its target maps pictures to reconstructions.
    """

    def losses(self, target: Target, attached: Attached, images: Images, seed: int) -> LossesOfStep:
        """Mean squared error of the reconstruction."""

        def losses(step: int, state: dict[str, float]) -> dict[str, Tensor]:
            rows = batch_rows(len(images), self.schedule.batch_size, seed=seed, step=step)
            x = augmented(images[rows], seed, step)
            return {"total": (target.surface(x, [0] * len(x)) - x).pow(2).mean()}

        return losses
