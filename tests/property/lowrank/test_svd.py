"""Laws 1 and 3: Eckart-Young, and the small core of factors against the dense SVD."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.arrays import dtype_name, namespace, to_numpy, tolerance
from loricate.lowrank.rules import EnergyRank, FixedRank, NumericalRank
from loricate.lowrank.svd import balanced, factored_svd, full_svd, recompress, truncated_svd
from loricate.testing.strategies import exact_dense, factors_cases, matrix_cases, seeds, sizes


def frobenius(matrix):
    return float(np.linalg.norm(matrix))


def slack(s, like):
    """Frobenius bound of an entrywise table value."""
    return tolerance(s, like.shape, dtype=like) * max(like.shape)


@given(matrix_cases(), sizes)
def test_squared_error_is_the_sum_of_dropped_squares(case, k):
    weight = case.matrix()
    exact = to_numpy(weight)
    s = np.linalg.svd(exact, compute_uv=False)
    error = frobenius(exact - exact_dense(truncated_svd(weight, FixedRank(k))))
    assert abs(error - frobenius(s[k:])) <= slack(s, weight)


@given(matrix_cases(), sizes, seeds)
def test_no_competitor_of_that_rank_is_closer(case, k, seed):
    weight = case.matrix()
    exact = to_numpy(weight)
    rng = np.random.default_rng(seed)
    sketch = np.linalg.qr(exact @ rng.standard_normal((exact.shape[1], k)))[0]
    competitor = sketch @ (sketch.T @ exact)
    error = frobenius(exact - exact_dense(truncated_svd(weight, FixedRank(k))))
    allowance = slack(np.linalg.svd(exact, compute_uv=False), weight)
    assert error <= frobenius(exact - competitor) + allowance


@given(matrix_cases())
def test_whole_energy_keeps_the_matrix(case):
    weight = case.matrix()
    exact = to_numpy(weight)
    s = np.linalg.svd(exact, compute_uv=False)
    for rule in (EnergyRank(1.0), NumericalRank()):
        error = frobenius(exact - exact_dense(truncated_svd(weight, rule)))
        assert error <= slack(s, weight)


@given(matrix_cases())
def test_vectors_are_orthonormal_and_values_descend(case):
    svd = full_svd(case.matrix())
    u, s, vh = map(to_numpy, (svd.U, svd.s, svd.Vh))
    atol = tolerance(np.ones(1), svd.shape, dtype=svd.s)
    np.testing.assert_allclose(u.T @ u, np.eye(s.size), atol=atol)
    np.testing.assert_allclose(vh @ vh.T, np.eye(s.size), atol=atol)
    assert np.all(np.diff(s) <= 0)


@given(factors_cases(dtypes=("float64", "float32")))
def test_core_of_the_factors_equals_the_dense_svd(case):
    update = case.factors()
    s = np.linalg.svd(exact_dense(update), compute_uv=False)
    svd = factored_svd(update)
    atol = tolerance(case.magnitude(), case.sides, dtype=update.B)
    np.testing.assert_allclose(to_numpy(svd.s), s[: svd.s.shape[0]], rtol=0, atol=atol)
    rebuilt = (to_numpy(svd.U) * to_numpy(svd.s)) @ to_numpy(svd.Vh)
    np.testing.assert_allclose(rebuilt, exact_dense(update), rtol=0, atol=atol)


@given(factors_cases(dtypes=("float64", "float32")), sizes)
def test_recompression_is_the_best_approximation(case, k):
    update = case.factors()
    s = np.linalg.svd(exact_dense(update), compute_uv=False)
    small = recompress(update, FixedRank(k))
    allowance = max(case.sides) * tolerance(case.magnitude(), case.sides, dtype=update.B)
    assert small.rank <= k
    assert abs(frobenius(exact_dense(update) - exact_dense(small)) - frobenius(s[k:])) <= allowance


@given(factors_cases())
def test_balanced_factors_carry_the_same_spectrum(case):
    update = case.factors()
    even = balanced(update)
    atol = tolerance(case.magnitude(), case.sides, dtype=update.B)
    np.testing.assert_allclose(exact_dense(even), exact_dense(update), rtol=0, atol=atol)
    a, b = to_numpy(even.A), to_numpy(even.B)
    np.testing.assert_allclose(a @ a.T, b.T @ b, rtol=0, atol=atol)


@given(matrix_cases(), st.sampled_from((0.5, 0.9)))
def test_dtype_and_library_are_kept(case, p):
    weight = case.matrix()
    update = truncated_svd(weight, EnergyRank(p))
    assert dtype_name(update.A) == dtype_name(update.B) == case.dtype
    assert namespace(update.B) is namespace(weight)


@given(matrix_cases(libraries=("numpy",)), sizes)
def test_numpy_and_torch_agree(case, k):
    import torch

    s = np.linalg.svd(case.exact(), compute_uv=False)
    gap = s[k - 1] - s[k] if k < s.size else s[-1]

    ours = case.matrix()
    theirs = torch.asarray(np.asarray(ours, np.float64)).to(getattr(torch, case.dtype))
    a, b = (full_svd(w) for w in (ours, theirs))
    np.testing.assert_allclose(
        to_numpy(a.s), to_numpy(b.s), rtol=0, atol=tolerance(a.s, case.shape)
    )
    # Where singular values tie, the best approximation is not unique.
    if gap > 0.1 * s[0]:
        left, right = (exact_dense(truncated_svd(w, FixedRank(k))) for w in (ours, theirs))
        atol = 10 * tolerance(s, case.shape, dtype=ours)
        np.testing.assert_allclose(left, right, rtol=0, atol=atol)
