"""Laws 4 and 8: gauge, norms from factors, and one behavior for all libraries and dtypes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.arrays import dtype_name, from_numpy, namespace, to_numpy, tolerance
from loricate.lowrank.factors import LowRank
from loricate.testing.strategies import FactorsCase, exact_dense, factors_cases, seeds

WIDE = ("float64", "float32")


def slack(case: FactorsCase, update: LowRank, dtype: object = None) -> float:
    return tolerance(case.magnitude(), case.sides, dtype=update.B if dtype is None else dtype)


@given(factors_cases())
def test_dense_is_the_product(case):
    update = case.factors()
    np.testing.assert_allclose(
        to_numpy(update.dense()), exact_dense(update), rtol=0, atol=slack(case, update)
    )


@given(factors_cases())
def test_norms_from_factors_are_norms_of_the_product(case):
    update = case.factors()
    s = np.linalg.svd(exact_dense(update), compute_uv=False)
    ours = to_numpy(update.singular_values())
    compute = np.dtype("float64" if dtype_name(update.B) == "float64" else "float32")
    atol = slack(case, update, compute)
    kept = min(update.rank, *update.shape)
    np.testing.assert_allclose(ours, s[:kept], rtol=0, atol=atol)
    assert abs(update.spectral_norm() - s[0]) <= atol
    assert abs(update.nuclear_norm() - s.sum()) <= s.size * atol
    assert abs(update.frobenius_norm() - np.linalg.norm(s)) <= s.size * atol


@given(factors_cases(), seeds, st.sampled_from((-3, 0, 4)))
def test_gauge_leaves_the_product_alone(case, seed, exponent):
    update = case.factors()
    square = np.random.default_rng(seed).standard_normal((update.rank, update.rank))
    gauge = from_numpy(2.0**exponent * np.linalg.qr(square)[0], like=update.B)
    # A rounded gauge is as good as any: only its inverse has to be its own.
    assert update.regauged(gauge).scale == update.scale
    np.testing.assert_allclose(
        exact_dense(update.regauged(gauge)),
        exact_dense(update),
        rtol=0,
        atol=2 * slack(case, update),
    )


@given(factors_cases())
def test_baking_moves_the_scale_into_b(case):
    update = case.factors()
    baked = update.baked()
    assert baked.scale == 1.0
    assert baked.A is update.A
    np.testing.assert_allclose(
        exact_dense(baked), exact_dense(update), rtol=0, atol=slack(case, update)
    )


@given(factors_cases(dtypes=("float64",)), st.sampled_from((-2.0, 0.0, 0.5)))
def test_gain_acts_linearly(case, gain):
    update = case.factors()
    np.testing.assert_allclose(
        exact_dense(update.scaled(gain)), gain * exact_dense(update), rtol=1e-15
    )


@given(factors_cases())
def test_dtype_and_library_are_kept(case):
    update = case.factors()
    for array in (update.dense(), update.baked().B, update.scaled(2.0).A):
        assert array.dtype == update.B.dtype
        assert namespace(array) is namespace(update.B)


@given(factors_cases(libraries=("numpy",), dtypes=WIDE))
def test_numpy_and_torch_agree(case):
    torch = pytest.importorskip("torch")
    ours = case.factors()
    theirs = LowRank(torch.asarray(ours.A), torch.asarray(ours.B), ours.scale)
    atol = slack(case, ours)
    np.testing.assert_allclose(to_numpy(theirs.dense()), ours.dense(), rtol=0, atol=atol)
    np.testing.assert_allclose(
        to_numpy(theirs.singular_values()), ours.singular_values(), rtol=0, atol=atol
    )


@given(factors_cases())
def test_strided_views_are_accepted(case):
    update = case.factors()
    xp = namespace(update.B)
    view = LowRank(
        xp.concat([update.A, update.A], axis=1)[:, : update.shape[1]],
        xp.concat([update.B.T, update.B.T], axis=0).T[:, : update.rank],
        update.scale,
    )
    np.testing.assert_allclose(
        to_numpy(view.dense()), to_numpy(update.dense()), rtol=0, atol=slack(case, update)
    )
