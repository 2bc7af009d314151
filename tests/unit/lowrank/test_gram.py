"""Norms and energies from Gram matrices, against dense linear algebra."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given

from loricate.basics.errors import NumericalError
from loricate.lowrank.factors import LowRank
from loricate.lowrank.gram import norms, retained_energy, singular_values, widened
from loricate.lowrank.svd import factored_svd
from loricate.testing.strategies import exact_dense, factors_cases


def close(value, expected, scale):
    return abs(value - expected) <= 1e-8 * expected + 1e-14 * scale


@given(case=factors_cases())
def test_norms_are_those_of_the_product(case):
    update = case.factors()
    s = np.linalg.svd(exact_dense(update), compute_uv=False)
    found, scale = norms(update), float(case.magnitude()[0]) * max(case.sides)
    assert close(found.frobenius, float(np.linalg.norm(s)), scale)
    assert close(found.spectral, float(s[0]), scale)


@given(case=factors_cases())
def test_all_singular_values_are_those_of_the_product(case):
    update = case.factors()
    s = np.linalg.svd(exact_dense(update), compute_uv=False)
    found, scale = singular_values(update), float(case.magnitude()[0]) * max(case.sides)
    assert found.shape == (min(update.rank, *update.shape),)
    assert np.all(np.diff(found) <= 0)
    np.testing.assert_allclose(found, s[: len(found)], rtol=0, atol=1e-7 * s[0] + 1e-14 * scale)


def test_terms_that_cancel_are_decomposed(rng):
    a, b = rng.standard_normal((3, 20)), rng.standard_normal((30, 3))
    small = 1e-7 * rng.standard_normal((30, 3))
    update = LowRank(np.concatenate([a, a]), np.concatenate([b + small, -b], axis=1))
    s = np.linalg.svd(small @ a, compute_uv=False)
    # What is left of the sum itself has lost seven digits.
    assert norms(update).frobenius == pytest.approx(float(np.linalg.norm(s)), rel=1e-7)
    assert norms(update).spectral == pytest.approx(float(s[0]), rel=1e-7)


def test_any_gauge_has_the_same_norms(rng):
    a, b = rng.standard_normal((3, 20)), rng.standard_normal((30, 3))
    gauge = np.array([1e9, 1.0, 1e-9])
    expected, found = norms(LowRank(a, b)), norms(LowRank(a / gauge[:, None], b * gauge))
    assert found == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("gauge", [1.0, 1e2, 1e4, 1e9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_half_of_two_equal_components_is_half(rng, gauge, dtype):
    # The norm of each factor is all in one component, and the two are not the same one.
    a, b = (np.linalg.qr(rng.standard_normal((64, 2)))[0] for _ in range(2))
    stretch = np.array([gauge, 1 / gauge])
    exact = LowRank((stretch[:, None] * a.T).astype(dtype), (b / stretch).astype(dtype))
    assert retained_energy(exact, factored_svd(exact).balanced(1)) == pytest.approx(0.5, abs=1e-6)
    assert retained_energy(exact, LowRank(exact.A[1:], exact.B[:, 1:])) == pytest.approx(
        0.5, abs=1e-6
    )


@pytest.mark.parametrize("left", [1e-2, 1e-4, 1e-6])
def test_energy_of_what_is_left_of_a_cancelling_sum(rng, left):
    a, b = rng.standard_normal((3, 20)), rng.standard_normal((30, 3))
    small = left * rng.standard_normal((30, 3))
    exact = LowRank(np.concatenate([a, a]), np.concatenate([b + small, -b], axis=1))
    kept = factored_svd(exact).balanced(1)
    s = np.linalg.svd(small @ a, compute_uv=False)
    expected = float(s[0] ** 2 / np.sum(s**2))
    assert retained_energy(exact, kept) == pytest.approx(expected, abs=1e-6)


def test_components_that_are_zero_on_one_side_do_not_count(rng):
    exact = LowRank(rng.standard_normal((2, 5)), rng.standard_normal((6, 2)))
    padded = LowRank(
        np.concatenate([exact.A, np.full((1, 5), 1e6), np.zeros((1, 5))]),
        np.concatenate([exact.B, np.zeros((6, 1)), np.full((6, 1), 1e6)], axis=1),
    )
    assert norms(padded) == pytest.approx(norms(exact), rel=1e-12)
    assert retained_energy(padded, exact) == pytest.approx(1.0, abs=1e-15)


@given(case=factors_cases())
def test_everything_is_kept_of_itself(case):
    update = case.factors()
    assert retained_energy(update, update) == 1.0
    assert retained_energy(update, widened(update)) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("side", ["B alone", "both"])
def test_energy_is_the_share_of_the_squared_norm(rng, dtype, side):
    exact = LowRank(rng.standard_normal((4, 20)), rng.standard_normal((30, 4)), 0.3)
    a = exact.A if side == "B alone" else exact.A.astype(dtype)
    kept = LowRank(a, (0.3 * exact.B).astype(dtype))
    before, after = exact_dense(exact), exact_dense(kept)
    lost = np.linalg.norm(before - after) ** 2 / np.linalg.norm(before) ** 2
    assert 1 - retained_energy(exact, kept) == pytest.approx(float(lost), rel=1e-3, abs=1e-15)


def test_nothing_of_it_is_no_energy(rng):
    exact = LowRank(rng.standard_normal((2, 5)), rng.standard_normal((6, 2)))
    assert retained_energy(exact, LowRank(exact.A[:0], exact.B[:, :0])) == 0.0
    assert retained_energy(exact, exact.scaled(5.0)) == 0.0


def test_an_update_that_cancels_has_nothing_to_lose(rng):
    a, b = rng.standard_normal((2, 5)), rng.standard_normal((6, 2))
    nothing = LowRank(np.concatenate([a, a]), np.concatenate([b, -b], axis=1))
    assert retained_energy(nothing, LowRank(a[:0], b[:, :0])) == 1.0


def test_a_product_that_overflows_is_an_error():
    huge = LowRank(np.full((1, 2), 1e160), np.full((2, 1), 1e160))
    with pytest.raises(NumericalError, match="overflows"):
        norms(huge)
