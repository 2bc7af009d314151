"""Updates of LyCORIS that are products of another kind, as plain pairs of factors."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.basics.arrays import tolerance
from loricate.basics.errors import ShapeError
from loricate.lowrank.factors import LowRank
from loricate.lowrank.sketch import randomized_svd
from loricate.lowrank.svd import SVD, full_svd

__all__ = ["WIDTH", "loha", "lokr", "multiplied"]

WIDTH = 128
"""Singular triplets that are kept; those beyond are smaller than each of them."""

_Matrix = NDArray[np.float32]
_Tensors = Mapping[str, np.ndarray[Any, Any]]

# No layer of a model is as large, and small tensors multiply to any size.
_MAX_ENTRIES = 40_000_000


def loha(tensors: _Tensors, alpha: float | None) -> LowRank:
    """The Hadamard product of two low-rank products, by its leading singular triplets.

    Args:
        tensors: ``hada_w1_a`` and its like, by their names without the module.
        alpha: Alpha, or ``None`` for the rank.

    Raises:
        ShapeError: Tensors are missing, or do not belong together.

    Source: LyCORIS 3, arXiv 2309.14859, section 3.2.
    """
    first, second = (_half(tensors, number) for number in "12")
    if first.shape != second.shape:
        raise ShapeError("two halves of one shape", (first.shape, second.shape))
    # A core stands between the factors, whose first axis is then the rank.
    axis = 0 if "hada_t1" in tensors else 1
    rank = tensors["hada_w1_a"].shape[axis]
    first *= second
    return _leading(_svd(first), 1.0 if alpha is None else alpha / rank)


def lokr(tensors: _Tensors, alpha: float | None) -> LowRank:
    """The Kronecker product of two matrices, by its leading singular triplets.

    They are products of those of both sides, so that the product itself is never formed.

    Args:
        tensors: ``lokr_w1`` and its like, by their names without the module.
        alpha: Alpha, or ``None`` for the rank.

    Raises:
        ShapeError: Tensors are missing, or do not belong together.

    Source: LyCORIS 3, arXiv 2309.14859, section 3.3.
    """
    (left, left_rank), (right, right_rank) = (_side(tensors, number) for number in "12")
    rank = right_rank or left_rank
    scale = 1.0 if alpha is None or rank is None else alpha / rank
    if float(left.size) * right.size > _MAX_ENTRIES:
        raise ShapeError(f"an update of at most {_MAX_ENTRIES} entries", (left.shape, right.shape))
    small, large = _svd(_flat(left)), _svd(_flat(right))
    values = np.outer(small.s, large.s)
    rows, columns = np.unravel_index(np.argsort(-values, axis=None)[:WIDTH], values.shape)
    kron = SVD(
        U=_columns(small.U[:, rows], large.U[:, columns]),
        s=values[rows, columns],
        Vh=_columns(small.Vh[rows].T, large.Vh[columns].T).T,
    )
    return _leading(kron, scale)


def _half(tensors: _Tensors, number: str) -> _Matrix:
    a, b = (_float(tensors, f"hada_w{number}_{side}") for side in "ab")
    if (core := f"hada_t{number}") in tensors:
        return _flat(multiplied("ijkl,jr,ip->prkl", _float(tensors, core), b, a))
    return multiplied("or,ri->oi", a, b)


def _side(tensors: _Tensors, number: str) -> tuple[_Matrix, int | None]:
    """One side of a Kronecker product, and its rank if it has factors."""
    name = f"lokr_w{number}"
    if name in tensors:
        return _float(tensors, name), None
    a, b = (_float(tensors, f"{name}_{side}") for side in "ab")
    if (core := f"lokr_t{number}") in tensors:
        return multiplied("ijkl,ip,jr->prkl", _float(tensors, core), a, b), len(b)
    return multiplied("or,ri->oi", a, _flat(b)), len(b)


def _float(tensors: _Tensors, name: str) -> _Matrix:
    if name not in tensors or tensors[name].ndim < 2 or tensors[name].size == 0:
        got = sorted(tensors) if name not in tensors else tensors[name].shape
        raise ShapeError(f"a matrix {name!r}", got)
    return tensors[name].astype(np.float32)


def multiplied(equation: str, *arrays: _Matrix) -> _Matrix:
    """A product of tensors, if it is not larger than the update of a layer can be.

    Args:
        equation: As ``numpy.einsum`` takes it.
        arrays: What is multiplied.

    Raises:
        ShapeError: They do not fit, or the product is too large.
    """
    try:
        sizes: dict[str, int] = {}
        inputs, _, output = equation.partition("->")
        for axes, array in zip(inputs.split(","), arrays, strict=True):
            sizes |= dict(zip(axes, array.shape, strict=True))
        if np.prod([sizes[axis] for axis in output], dtype=float) > _MAX_ENTRIES:
            raise ValueError
        return np.asarray(np.einsum(equation, *arrays, optimize=True), np.float32)
    except ValueError:
        shapes = tuple(array.shape for array in arrays)
        raise ShapeError(f"tensors that multiply as {equation}", shapes) from None


def _flat(array: _Matrix) -> _Matrix:
    return array.reshape(len(array), -1)


def _svd(matrix: Float[np.ndarray, "m n"]) -> SVD:
    if min(matrix.shape) <= 2 * WIDTH:
        return full_svd(matrix)
    return randomized_svd(matrix, WIDTH, power_iterations=1).svd


def _columns(left: _Matrix, right: _Matrix) -> _Matrix:
    """Kronecker products of the columns, one by one."""
    return np.asarray(np.einsum("ik,jk->ijk", left, right).reshape(-1, left.shape[1]), np.float32)


def _leading(svd: SVD, scale: float) -> LowRank:
    # What rounding left of a lower rank is no part of it.
    rank = max(1, int(np.sum(svd.s > tolerance(svd.s, svd.shape))))
    return svd.balanced(min(rank, WIDTH)).scaled(scale)
