"""Any changed byte, name, dtype or shape flips the digest; insertion order does not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from loricate.integrity.digest import digest

_DTYPES = ["float32", "float16", "int64", "uint8"]
_NAMES = st.text("abw.", min_size=1, max_size=6)
_ARRAYS = st.sampled_from(_DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(max_dims=3, max_side=3, min_side=1))
)
_TENSORS = st.dictionaries(_NAMES, _ARRAYS, min_size=1, max_size=4)


@given(tensors=_TENSORS, order=st.randoms(use_true_random=False))
def test_order_does_not_count(tensors, order) -> None:
    names = list(tensors)
    order.shuffle(names)
    assert digest({name: tensors[name] for name in names}) == digest(tensors)


@given(tensors=_TENSORS, data=st.data())
def test_any_bit_counts(tensors, data) -> None:
    before = digest(tensors)
    name = data.draw(st.sampled_from(sorted(tensors)))
    content = bytearray(tensors[name].tobytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = np.frombuffer(bytes(content), tensors[name].dtype).reshape(tensors[name].shape)
    assert digest(tensors | {name: changed}) != before


@given(tensors=_TENSORS, data=st.data())
def test_a_name_counts(tensors, data) -> None:
    name = data.draw(st.sampled_from(sorted(tensors)))
    other = data.draw(_NAMES.filter(lambda text: text not in tensors))
    renamed = {other if key == name else key: value for key, value in tensors.items()}
    assert digest(renamed) != digest(tensors)


@given(tensors=_TENSORS, data=st.data())
def test_one_more_or_one_less_counts(tensors, data) -> None:
    name = data.draw(st.sampled_from(sorted(tensors)))
    fewer = {key: value for key, value in tensors.items() if key != name}
    assert digest(fewer) != digest(tensors)


@given(array=_ARRAYS)
def test_a_shape_counts(array) -> None:
    assert digest({"w": array}) != digest({"w": array[None]})
    assert digest({"w": array}) != digest({"w": array.reshape(-1, 1, 1, 1)})


@given(array=hnp.arrays("float32", hnp.array_shapes(max_dims=2, max_side=3)))
def test_a_dtype_counts(array) -> None:
    assert digest({"w": array}) != digest({"w": array.view("int32")})


@given(first=_ARRAYS, second=_ARRAYS)
def test_contents_do_not_flow_from_one_tensor_into_the_next(first, second) -> None:
    swapped = digest({"a": second, "b": first})
    is_same = first.dtype == second.dtype and first.shape == second.shape
    is_same = is_same and first.tobytes() == second.tobytes()
    assert (digest({"a": first, "b": second}) == swapped) == is_same


@pytest.mark.parametrize("shape", [(0,), (2, 0), ()])
def test_empty_and_scalar_tensors_have_shapes(shape) -> None:
    tensor = np.zeros(shape, dtype=np.float32)
    assert digest({"w": tensor}) != digest({"w": tensor[None]})
