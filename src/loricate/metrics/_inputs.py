"""What every metric asks of its two tensors."""

import torch
from torch import Tensor

from loricate.basics.errors import ShapeError

__all__ = ["require_alike"]


def require_alike(output: Tensor, reference: Tensor, *, ndim: int | None = None) -> None:
    """Refuse outputs that do not line up with their references.

    Args:
        output: Outputs under test.
        reference: What they are compared with.
        ndim: Number of dimensions both must have; ``None`` means at least two.

    Raises:
        ShapeError: Different shapes, another number of dimensions, or not floating point.
    """
    if output.shape != reference.shape:
        raise ShapeError(f"outputs of shape {tuple(reference.shape)}", tuple(output.shape))
    if output.ndim < 2 or ndim not in (None, output.ndim):
        expected = "one row a sample" if ndim is None else f"{ndim} dimensions"
        raise ShapeError(expected, tuple(output.shape), hint="add the batch dimension")
    if not (torch.is_floating_point(output) and torch.is_floating_point(reference)):
        raise ShapeError("floating-point tensors", (str(output.dtype), str(reference.dtype)))
