from typing import Any

import ml_dtypes
import numpy as np
import pytest

from loricate.basics.arrays import (
    dtype_name,
    from_numpy,
    namespace,
    require_finite,
    to_numpy,
    tolerance,
    unit_roundoff,
    upcast,
)
from loricate.basics.errors import NumericalError, ShapeError

_NAMES = ["float16", "bfloat16", "float32", "float64"]


def _numpy(name: str, values: list[float]) -> Any:
    return np.asarray(values, dtype=getattr(ml_dtypes, name, None) or name)


def _torch(name: str, values: list[float]) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tensor(values, dtype=getattr(torch, name))


_MAKERS = pytest.mark.parametrize("make", [_numpy, _torch])
_DTYPES = pytest.mark.parametrize("name", _NAMES)


@_MAKERS
@_DTYPES
def test_dtypes_have_one_name_everywhere(make, name: str) -> None:
    array = make(name, [1.0])
    assert dtype_name(array) == dtype_name(array.dtype) == name


@_MAKERS
@_DTYPES
def test_unit_roundoff_is_where_one_plus_it_stops_being_one(make, name: str) -> None:
    one, u = make(name, [1.0]), unit_roundoff(make(name, [1.0]))
    assert bool((one + make(name, [u]) == one).all())
    assert bool((one + make(name, [2 * u]) != one).all())


@_MAKERS
@_DTYPES
def test_only_halves_are_widened(make, name: str) -> None:
    array = make(name, [0.5])
    wide = upcast(array)
    assert dtype_name(wide) == ("float32" if "16" in name else name)
    assert (wide is array) == ("16" not in name)
    assert namespace(wide) is namespace(array)


@_MAKERS
@_DTYPES
def test_numpy_and_back_is_the_same_array(make, name: str) -> None:
    array = make(name, [0.5, -2.0])
    values = to_numpy(array)
    assert values.dtype == np.float64
    assert values.tolist() == [0.5, -2.0]
    back = from_numpy(values, array)
    assert (type(back), back.dtype) == (type(array), array.dtype)
    assert bool((back == array).all())


def test_a_tensor_with_a_gradient_is_detached() -> None:
    torch = pytest.importorskip("torch")
    assert to_numpy(torch.ones(2, requires_grad=True)).tolist() == [1, 1]


@_MAKERS
@_DTYPES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(make, name: str, bad: float) -> None:
    good = make(name, [1.0])
    assert require_finite(good) is good
    with pytest.raises(NumericalError) as caught:
        require_finite(make(name, [1.0, bad]), where="conv_in")
    assert caught.value.where == "conv_in"


@pytest.mark.parametrize("name", _NAMES)
def test_the_largest_numbers_are_finite_in_any_layout(name: str) -> None:
    dtype = _numpy(name, []).dtype
    largest = float(ml_dtypes.finfo(dtype).max)
    square = np.array([[largest, 0.0], [-largest, 1.0]], dtype=dtype)
    for view in (square, square.T[::2], square[:0], square[0, 0]):
        require_finite(view)
    square[1, 1] = np.inf
    with pytest.raises(NumericalError):
        require_finite(square.T[1:, 1:])


def test_the_tolerance_is_the_one_of_the_table() -> None:
    s = np.array([3.0, 1.0], dtype=np.float32)
    assert tolerance(s, (4, 7)) == 8 * 2.0**-24 * 7 * 3
    assert tolerance(s, (5, 9, 2), dtype=np.float16) == 8 * 2.0**-11 * 9 * 3
    assert tolerance(s[:0], (0, 0)) == 0


def test_integers_have_no_roundoff() -> None:
    with pytest.raises(ShapeError) as caught:
        upcast(np.array([1, 2]))
    assert caught.value.got == "int64"
