"""Angle between feature vectors."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor
from torch.nn.functional import cosine_similarity

from loricate.core.metric import Metric
from loricate.core.shapes import PerSample
from loricate.metrics._inputs import require_alike

__all__ = ["FeatureDistance"]


@final
@dataclass(frozen=True, kw_only=True)
class FeatureDistance(Metric):
    """Cosine distance, 1 minus the cosine, between the features of two pictures.

    0 for features of the same direction, 2 for opposite ones; symmetric, and blind to length.
    """

    identical: ClassVar[float] = 0.0
    is_symmetric: ClassVar[bool] = True

    def __call__(self, output: Tensor, reference: Tensor) -> PerSample:
        """Distance of each sample in [0, 2]; less is closer."""
        require_alike(output, reference)
        return 1 - cosine_similarity(output.flatten(1), reference.flatten(1), dim=1)
