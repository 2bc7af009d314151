"""Law 5: sums are exact, and unmerging undoes merging."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.arrays import dtype_name, namespace, to_numpy, tolerance, unit_roundoff
from loricate.lowrank.merge import add, average, concat, merge, subtract, unmerge
from loricate.testing.strategies import (
    DTYPES,
    LIBRARIES,
    MatrixCase,
    exact_dense,
    factors_cases,
    seeds,
    sizes,
)

WIDE = ("float64", "float32")


@st.composite
def pairs(draw, dtypes=WIDE):
    """Two updates of one shape, dtype and library."""
    kind = {
        "shape": (draw(sizes), draw(sizes)),
        "dtypes": (draw(st.sampled_from(dtypes)),),
        "libraries": (draw(st.sampled_from(LIBRARIES)),),
    }
    return draw(factors_cases(**kind)), draw(factors_cases(**kind))


def slack(*cases):
    sides = np.sum([case.sides for case in cases], axis=0)
    return tolerance(
        sum(case.magnitude() for case in cases), tuple(sides), dtype=cases[0].factors().B
    )


@given(pairs(dtypes=DTYPES), st.sampled_from((1.0, -0.5, 0.0)))
def test_concat_is_the_weighted_sum_at_the_summed_rank(cases, gain):
    a, b = (case.factors() for case in cases)
    stacked = concat([a, b], [1.0, gain])
    assert stacked.rank == a.rank + b.rank
    assert dtype_name(stacked.B) == dtype_name(a.B)
    expected = exact_dense(a) + gain * exact_dense(b)
    np.testing.assert_allclose(exact_dense(stacked), expected, rtol=0, atol=slack(*cases))


@given(pairs())
def test_add_is_the_dense_sum(cases):
    a, b = (case.factors() for case in cases)
    total = add(a, b)
    assert total.rank <= min(a.rank + b.rank, *a.shape)
    expected = exact_dense(a) + exact_dense(b)
    np.testing.assert_allclose(exact_dense(total), expected, rtol=0, atol=slack(*cases))


@given(pairs())
def test_subtract_undoes_add(cases):
    a, b = (case.factors() for case in cases)
    np.testing.assert_allclose(
        exact_dense(subtract(add(a, b), b)), exact_dense(a), rtol=0, atol=2 * slack(*cases)
    )


@given(pairs())
def test_average_is_the_dense_mean(cases):
    a, b = (case.factors() for case in cases)
    expected = (exact_dense(a) + exact_dense(b)) / 2
    np.testing.assert_allclose(exact_dense(average([a, b])), expected, rtol=0, atol=slack(*cases))


@given(factors_cases(), st.sampled_from((1.0, 0.5, -2.0)), seeds)
def test_unmerge_undoes_merge_up_to_two_roundings(case, gain, seed):
    update = case.factors()
    base = MatrixCase(
        shape=update.shape,
        spectrum="geometric",
        dtype=case.A.dtype,
        library=case.A.library,
        seed=seed,
    ).matrix()
    merged = merge(base, update, gain)
    restored = unmerge(merged, update, gain)
    assert restored.dtype == base.dtype
    assert namespace(restored) is namespace(base)
    u = unit_roundoff(base)
    bound = u * (1 + 2 * u) * (np.abs(to_numpy(merged)) + np.abs(to_numpy(restored)))
    # Intermediate sums of half precision are rounded to float32 first.
    bound = bound * (1 + 2 * u)
    assert np.all(np.abs(to_numpy(restored) - to_numpy(base)) <= bound)


@given(factors_cases())
def test_merge_adds_the_dense_form(case):
    update = case.factors()
    base = MatrixCase(
        shape=update.shape, spectrum="flat", dtype=case.A.dtype, library=case.A.library
    )
    weight = base.matrix()
    expected = to_numpy(weight) + exact_dense(update)
    atol = tolerance(1.0 + case.magnitude(), case.sides, dtype=weight)
    np.testing.assert_allclose(to_numpy(merge(weight, update)), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("library", LIBRARIES)
def test_merge_with_gain_zero_gives_the_same_bits(library):
    case = MatrixCase(shape=(5, 7), spectrum="geometric", dtype="float32", library=library)
    weight = case.matrix()
    update = add(*[_rank_one(case)] * 2)
    np.testing.assert_array_equal(to_numpy(merge(weight, update, 0.0)), to_numpy(weight))


def _rank_one(case):
    from loricate.lowrank.rules import FixedRank
    from loricate.lowrank.svd import truncated_svd

    return truncated_svd(case.matrix(), FixedRank(1))
