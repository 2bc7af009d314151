"""How far encodings moved, in units of how far they spread."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from loricate.basics.errors import ShapeError
from loricate.core.metric import Metric
from loricate.core.shapes import PerSample
from loricate.metrics._inputs import require_alike

__all__ = ["LatentDrift"]


@final
@dataclass(frozen=True, kw_only=True)
class LatentDrift(Metric):
    """Distance between two encodings over the norm of the channel-centered reference.

    Centering makes the value independent of a constant that an encoder adds to a channel. 0 for
    identical encodings; not symmetric. A reference that equals the channel means everywhere has
    no spread to measure by, and any drift from it is infinite.

    Args:
        channel_mean: Mean of each channel over a reference set. ``None`` takes the means of the
            reference batch, so values then depend on which samples share a batch: fix the means
            where rows must not.
    """

    identical: ClassVar[float] = 0.0

    channel_mean: tuple[float, ...] | None = None

    def __call__(self, output: Tensor, reference: Tensor) -> PerSample:
        """Relative displacement of each sample; 1 is as far as the encoding spreads."""
        require_alike(output, reference)
        distance = (output - reference).flatten(1).norm(dim=1)
        spread = (reference - self._center(reference)).flatten(1).norm(dim=1)
        return torch.where(distance == 0, distance, distance / spread)

    @staticmethod
    def means(reference: Tensor) -> tuple[float, ...]:
        """Channel means of a reference set, for ``channel_mean``.

        Args:
            reference: Encodings with channels in the second dimension.

        Returns:
            One mean a channel.
        """
        return tuple(_channel_mean(reference).flatten().tolist())

    def _center(self, reference: Tensor) -> Tensor:
        if self.channel_mean is None:
            if reference.ndim == 2 and len(reference) == 1:
                raise ShapeError(
                    "two rows or more to take channel means of",
                    tuple(reference.shape),
                    hint="set channel_mean",
                )
            return _channel_mean(reference)
        if len(self.channel_mean) != reference.shape[1]:
            expected = f"{len(self.channel_mean)} channels, as channel_mean has"
            raise ShapeError(expected, tuple(reference.shape))
        column = torch.tensor(self.channel_mean, dtype=reference.dtype, device=reference.device)
        return column.view(1, -1, *(1,) * (reference.ndim - 2))


def _channel_mean(reference: Tensor) -> Tensor:
    others = [axis for axis in range(reference.ndim) if axis != 1]
    return reference.mean(dim=others, keepdim=True)
