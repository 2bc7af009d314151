"""Convolution kernels as matrices, and a convolution update as a pair of convolutions."""

from typing import TypeAlias

from jaxtyping import Float

from loricate.basics.arrays import Array, namespace
from loricate.basics.errors import ShapeError
from loricate.lowrank.factors import LowRank

__all__ = ["as_kernel", "as_matrix", "as_pair", "from_pair"]

KernelShape: TypeAlias = tuple[int, int, int]


def as_matrix(kernel: Float[Array, "d_out c_in kh kw"]) -> Float[Array, "d_out d_in"]:
    """Matrix whose row i holds the kernel of output channel i.

    Raises:
        ShapeError: ``kernel`` does not have four axes.
    """
    _check_kernel(kernel)
    return namespace(kernel).reshape(kernel, (kernel.shape[0], -1))


def as_kernel(
    matrix: Float[Array, "d_out d_in"], shape: KernelShape
) -> Float[Array, "d_out c_in kh kw"]:
    """Kernel that ``as_matrix`` flattens to ``matrix``.

    Args:
        matrix: Dense matrix.
        shape: Input channels, height and width of the kernel.

    Raises:
        ShapeError: A row of ``matrix`` does not hold one kernel of this shape.
    """
    c_in, height, width = shape
    if matrix.ndim != 2 or matrix.shape[1] != c_in * height * width:
        expected = f"a matrix (d_out, c_in * kh * kw) = (d_out, {c_in * height * width})"
        raise ShapeError(expected, tuple(matrix.shape))
    return namespace(matrix).reshape(matrix, (matrix.shape[0], c_in, height, width))


def as_pair(
    update: LowRank, shape: KernelShape
) -> tuple[Float[Array, "rank c_in kh kw"], Float[Array, "d_out rank 1 1"]]:
    """Two convolutions in a row that act as the update of one convolution.

    The first has the kernel size, stride and padding of the updated layer, the second is 1x1:
    convolving with both equals convolving with the kernel of ``update.dense()``.

    Args:
        update: Update of the flattened kernel; its scale goes into the second convolution.
        shape: Input channels, height and width of the updated kernel.

    Raises:
        ShapeError: The update does not belong to a kernel of this shape.
    """
    baked = update.baked()
    xp = namespace(baked.B)
    return as_kernel(baked.A, shape), xp.reshape(baked.B, (*baked.B.shape, 1, 1))


def from_pair(
    first: Float[Array, "rank c_in kh kw"], second: Float[Array, "d_out rank 1 1"]
) -> LowRank:
    """Update of the flattened kernel, from the two convolutions of ``as_pair``.

    Raises:
        ShapeError: The second convolution is not 1x1, or the ranks differ.
    """
    _check_kernel(second)
    if tuple(second.shape[2:]) != (1, 1):
        raise ShapeError("a second kernel of shape (d_out, rank, 1, 1)", tuple(second.shape))
    return LowRank(as_matrix(first), as_matrix(second))


def _check_kernel(kernel: Float[Array, "..."]) -> None:
    if kernel.ndim != 4:
        raise ShapeError("a kernel of shape (d_out, c_in, kh, kw)", tuple(kernel.shape))
