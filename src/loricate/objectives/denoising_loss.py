"""Make the denoiser fail on the picture."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["DenoisingLoss"]


@final
@dataclass(frozen=True, kw_only=True)
class DenoisingLoss(Objective):
    """Mean squared error of the predicted noise: what fine-tuning minimizes.

    ``E |eps - eps_theta(z_t, t, c)|^2`` over timesteps and noises, with the exact gradient through
    the denoiser. Average several draws, as one gives a noisy gradient.

    Source: AdvDM, Liang et al. 2023 [advdm2023], equation 6; with a surrogate that learns, the
    loss of FSMG and ASPL [antidreambooth2023]. Deviates: draws are fixed for a whole attack, so
    that its points can be compared.
    """

    surface_kind: ClassVar[str] = "denoiser"

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """No error at all."""
        return x.new_zeros(len(x))

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Mean squared error of each sample."""
        return output.flatten(1).pow(2).mean(1)
