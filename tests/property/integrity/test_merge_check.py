"""What rounding explains of a merge: every order of sums, and not two floats further."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from ml_dtypes import bfloat16

from loricate.adapters.baking import Patch
from loricate.integrity.merge_check import excess
from loricate.lowrank.factors import LowRank

DTYPES = st.sampled_from([np.dtype(np.float16), np.dtype(bfloat16)])
SIDES = st.integers(1, 12)


def drawn(rng, rows, columns, rank, dtype, size):
    weight = rng.standard_normal((rows, columns)).astype(dtype)
    a = rng.standard_normal((rank, columns)).astype(np.float32)
    b = (size * rng.standard_normal((rows, rank)) / rank**0.5).astype(np.float32)
    return weight, a, b


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(SIDES, SIDES, st.integers(1, 16)),
    dtype=DTYPES,
    size=st.sampled_from([0.01, 0.1, 1.0, 10.0]),
    keeps=st.tuples(*[st.booleans()] * 4),
)
def test_any_order_and_any_place_of_rounding_is_explained(seed, shape, dtype, size, keeps):
    rng = np.random.default_rng(seed)
    wide, a, b = drawn(rng, *shape, np.float32, size)
    is_base_wide, are_factors_half, is_product_half, is_multiple_half = keeps
    base = wide if is_base_wide else wide.astype(dtype)
    update = LowRank(a, b, 0.7)

    def half(array, is_so):
        return array.astype(dtype).astype(np.float32) if is_so else array

    left, right = half(b, are_factors_half), half(a, are_factors_half)
    product = np.zeros_like(wide)
    for term in rng.permutation(shape[2]):  # one order of many, in float32
        product += np.outer(left[:, term], right[term])
    added = half(np.float32(0.7) * half(product, is_product_half), is_multiple_half)
    merged = (base.astype(dtype).astype(np.float32) + added).astype(dtype)
    assert excess(base, merged, [Patch(0, update)]) <= 1


@given(seed=st.integers(0, 2**32 - 1), shape=st.tuples(SIDES, SIDES), dtype=DTYPES)
def test_an_entry_two_floats_further_is_not(seed, shape, dtype):
    rng = np.random.default_rng(seed)
    _, a, b = drawn(rng, *shape, 2, dtype, 0.01)
    # Entries that are not small beside what is added, so that their own rounding counts.
    weight = (rng.choice([-1, 1], shape) * rng.uniform(1, 2, shape)).astype(dtype)
    update = LowRank(a.astype(dtype), np.clip(b, -0.02, 0.02).astype(dtype))
    merged = (weight.astype(np.float64) + update.dense().astype(np.float64)).astype(dtype)
    assert excess(weight, merged, [Patch(0, update)]) <= 1
    merged.view("u2").reshape(-1)[rng.integers(merged.size)] += 2
    assert excess(weight, merged, [Patch(0, update)]) > 1
