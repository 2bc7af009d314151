"""How far the hidden states of prompts moved."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from loricate.basics.errors import ShapeError
from loricate.basics.spec import Length
from loricate.core.metric import Metric
from loricate.core.shapes import PerSample
from loricate.metrics._inputs import require_alike

__all__ = ["EmbeddingDrift"]


@final
@dataclass(frozen=True, kw_only=True)
class EmbeddingDrift(Metric):
    """Euclidean distance between hidden states, over all places, in a fixed unit.

    0 for identical states; symmetric. With the spread of prompts as unit, two unrelated prompts
    are about 1.4 apart.

    Args:
        spread: The unit, as ``spread_of`` measures it; 1 leaves the distance as it is.
    """

    identical: ClassVar[float] = 0.0
    is_symmetric: ClassVar[bool] = True

    spread: Length = 1.0

    def __call__(self, output: Tensor, reference: Tensor) -> PerSample:
        """Displacement of each prompt."""
        require_alike(output, reference)
        distance: Tensor = (output - reference).flatten(1).norm(dim=1)
        return distance / self.spread

    @staticmethod
    def spread_of(states: Tensor) -> float:
        """Root mean squared distance of prompts from their mean.

        Args:
            states: Hidden states of different prompts, one row each.

        Returns:
            The unit for ``spread``.

        Raises:
            ShapeError: Fewer than two prompts, or all alike.
        """
        spread = float((states - states.mean(0)).flatten(1).square().sum(1).mean().sqrt())
        if not spread > 0:
            raise ShapeError("states of at least two different prompts", tuple(states.shape))
        return spread
