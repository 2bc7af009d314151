"""The scale that a tensor beside the factors states."""

import math

import numpy as np

from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import ShapeError

__all__ = ["alpha_of"]


def alpha_of(file: TensorFile, key: str) -> float | None:
    """Alpha in a tensor, or ``None`` where it is 0 or no number, which means that nobody set it.

    Args:
        file: The file.
        key: Name of the tensor.

    Raises:
        ShapeError: It holds more or less than one number.
    """
    shape = file.infos[key].shape
    if math.prod(shape) != 1:
        raise ShapeError("one number for alpha", shape)
    value = float(np.ravel(file[key]).astype(np.float64)[0])
    return value if math.isfinite(value) and value != 0 else None
