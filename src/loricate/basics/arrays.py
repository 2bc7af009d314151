"""One way to treat numpy and torch arrays alike, and the table of tolerances."""

from collections.abc import Hashable
from functools import cache
from typing import Any

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from loricate.basics.errors import NumericalError, ShapeError

__all__ = [
    "Array",
    "dtype_name",
    "from_numpy",
    "namespace",
    "on_cpu",
    "require_finite",
    "to_numpy",
    "tolerance",
    "unit_roundoff",
    "upcast",
]

Array = Any
"""Any array of the array API; shapes ride on jaxtyping annotations."""

_UNIT_ROUNDOFF = {
    "float64": 2.0**-53,
    "float32": 2.0**-24,
    "float16": 2.0**-11,
    "bfloat16": 2.0**-8,
}
_HALVES = ("float16", "bfloat16")

# Bits of the exponent; all of them are set in NaN and infinity alone.
_EXPONENTS = {"float16": np.uint16(0x7C00), "bfloat16": np.uint16(0x7F80)}


def namespace(*arrays: Array) -> Any:
    """The array-API namespace that some arrays share.

    Args:
        arrays: Arrays of one library.

    Returns:
        The module whose functions apply to them.
    """
    # numpy is such a module itself; the package wraps all of it, which takes 0.2 s to import.
    if all(isinstance(array, np.ndarray) for array in arrays):
        return np
    return array_api_compat.array_namespace(*arrays)


def dtype_name(array: Array) -> str:
    """Name of a dtype, the same for every library: ``"bfloat16"``, ``"float32"``.

    Args:
        array: An array, or a dtype itself.

    Returns:
        The bare name.
    """
    # numpy's scalar types are classes, whose attribute "dtype" is not their dtype.
    dtype = np.dtype(array) if isinstance(array, type) else getattr(array, "dtype", array)
    return _name(dtype)


@cache
def _name(dtype: Hashable) -> str:
    # numpy takes microseconds to spell a name, which small matrices would notice.
    return str(dtype).removeprefix("torch.")


def upcast(array: Array) -> Array:
    """The array in float32 if it was half precision, itself otherwise.

    Args:
        array: An array of floats.

    Returns:
        Float32 or wider, on the same device.

    Raises:
        ShapeError: The dtype is not one of floating point.
    """
    unit_roundoff(array)
    if dtype_name(array) not in _HALVES:
        return array
    xp = namespace(array)
    return xp.astype(array, xp.float32)


def unit_roundoff(array: Array) -> float:
    """Largest relative error of rounding a number to a dtype.

    Args:
        array: An array, or a dtype itself.

    Returns:
        Half the distance from 1 to the next number.

    Raises:
        ShapeError: The dtype is not one of floating point.
    """
    name = dtype_name(array)
    if name not in _UNIT_ROUNDOFF:
        raise ShapeError(f"a dtype among {', '.join(_UNIT_ROUNDOFF)}", name)
    return _UNIT_ROUNDOFF[name]


def tolerance(s: Array, shape: tuple[int, ...], *, dtype: object = None) -> float:
    """How far two ways of computing the same matrix may differ: 8 · u · max(m, n) · σ₁.

    Args:
        s: Singular values of the matrix.
        shape: Its shape; the two last axes count.
        dtype: Dtype the computation went through, when it is not the one of ``s``.

    Returns:
        Absolute bound on singular values and, entry by entry, on the matrix.
    """
    sigma1 = float(to_numpy(s).max(initial=0.0))
    return 8 * unit_roundoff(s if dtype is None else dtype) * max(shape[-2:], default=1) * sigma1


def to_numpy(array: Array) -> NDArray[np.float64]:
    """The values of any array as float64 numpy, detached and on the CPU.

    Args:
        array: An array of floats, on any device.

    Returns:
        A numpy array; it may share memory with a numpy input.
    """
    return np.asarray(on_cpu(upcast(array)), dtype=np.float64)


def on_cpu(array: Array) -> Array:
    """The array as it is, detached and on the CPU.

    Args:
        array: An array of any dtype, on any device.

    Returns:
        An array of the same library; it may share memory with the input.
    """
    detached = array.detach() if hasattr(array, "detach") else array
    return array_api_compat.to_device(detached, "cpu")


def from_numpy(values: NDArray[np.float64], like: Array) -> Array:
    """Numpy values as an array of the same library, dtype and device as another.

    Args:
        values: What to convert.
        like: The array to resemble.

    Returns:
        A new array.
    """
    xp, device = namespace(like), array_api_compat.device(like)
    return xp.asarray(values, dtype=like.dtype, device=device)


def require_finite(array: Array, *, where: str | None = None, hint: str | None = None) -> Array:
    """The array itself, if nothing in it is NaN or infinite.

    Args:
        array: An array of floats.
        where: Module path or argument name, for the error.
        hint: What to do about it, for the error.

    Returns:
        ``array``, unchanged.

    Raises:
        NumericalError: Something in it is not finite.
    """
    if not _is_finite(array):
        raise NumericalError("expected finite values, got NaN or infinity", where=where, hint=hint)
    return array


def _is_finite(array: Array) -> bool:
    exponent = _EXPONENTS.get(dtype_name(array))
    if exponent is None or not isinstance(array, np.ndarray):
        xp = namespace(array)
        return bool(xp.all(xp.isfinite(upcast(array))))
    # numpy looks at halves one by one, and at their bits sixteen at a time.
    return bool(int((array.view(np.uint16) & exponent).max(initial=0)) < exponent)
