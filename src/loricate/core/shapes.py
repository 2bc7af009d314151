"""Tensor aliases shared by the contracts."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["Batch", "Images", "PerSample"]

Batch = Float[Tensor, "n *shape"]
"""One item a row: pixels, latents or embeddings."""

Images = Float[Tensor, "n channels height width"]
"""Pixels in [0, 1]."""

PerSample = Float[Tensor, " n"]
"""One number a sample."""
