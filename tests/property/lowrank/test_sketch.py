"""Law 3: a randomized SVD stays within what its certificate states."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loricate.basics.arrays import to_numpy, tolerance, unit_roundoff
from loricate.basics.errors import NumericalError
from loricate.lowrank.rules import CutoffRank, EnergyRank, FixedRank, parse
from loricate.lowrank.sketch import certified_svd, randomized_svd
from loricate.lowrank.svd import truncated_svd
from loricate.testing.strategies import LIBRARIES, exact_dense, matrix_cases, seeds

WIDE = ("float64", "float32")
large = matrix_cases(sides=st.integers(30, 90), dtypes=WIDE)


@settings(max_examples=40)
@given(large, st.integers(0, 24), st.integers(0, 4), seeds)
def test_certificate_of_a_sketch_encloses_the_truth(case, rank, power, seed):
    weight = case.matrix()
    exact = to_numpy(weight)
    sketch = randomized_svd(weight, 24, power_iterations=power, seed=seed)
    certificate = sketch.certificate(rank)
    s = np.linalg.svd(exact, compute_uv=False)
    optimum = float(np.linalg.norm(s[rank:]))
    assert np.linalg.norm(exact - exact_dense(sketch.svd.factors(rank))) <= certificate.error
    assert certificate.optimal <= optimum <= certificate.error
    outside = np.linalg.norm(exact - exact_dense(sketch.svd.factors(24)), 2)
    assert outside <= sketch.spectral + tolerance(s, case.shape, dtype=weight)
    leading = np.sqrt(np.cumsum(s[:24] ** 2))
    assert np.all(leading <= sketch.ceilings[1:] + tolerance(s, case.shape, dtype=weight))


@settings(max_examples=20)
@given(st.sampled_from(("float64", "float32")), st.floats(-12.0, 0.0), seeds)
def test_certificate_holds_from_noise_to_nearly_low_rank(dtype, exponent, seed):
    # Where the residual comes from Pythagoras, where it is measured, and in between.
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, 8)))[0] for n in (120, 200))
    noise = rng.standard_normal((120, 200)) / 15.0
    weight = ((left * 0.7 ** np.arange(8)) @ right.T + 10.0**exponent * noise).astype(dtype)
    exact = weight.astype(np.float64)
    s = np.linalg.svd(exact, compute_uv=False)
    sketch = randomized_svd(weight, 12, seed=seed)
    for rank in (4, 8, 12):
        certificate = sketch.certificate(rank)
        error = np.linalg.norm(exact - exact_dense(sketch.svd.factors(rank)))
        optimum = float(np.linalg.norm(s[rank:]))
        assert certificate.optimal <= optimum <= certificate.error
        assert error <= certificate.error
        # The slack for rounding stays far below what any use of the bound would notice.
        assert certificate.error <= 1.006 * error + 100 * unit_roundoff(weight) * s[0]


def test_factors_share_the_singular_values_evenly(rng):
    weight = rng.standard_normal((60, 80)).astype(np.float32)
    update, _ = certified_svd(weight, FixedRank(4))
    np.testing.assert_allclose(update.A @ update.A.T, update.B.T @ update.B, atol=1e-4)


# From the least normal number to where the norm of the matrix overflows.
DECADES = {"float32": (-37.0, 36.0), "float64": (-306.0, 305.0)}


@settings(max_examples=60)
@given(st.sampled_from(WIDE), st.sampled_from(LIBRARIES), st.floats(0.0, 1.0), seeds)
@example("float32", "numpy", 0.0, 0)
@example("float32", "torch", 1.0, 0)
@example("float64", "numpy", 0.0, 0)
@example("float64", "torch", 1.0, 0)
@example("float32", "numpy", 12 / 73, 0)
@example("float32", "numpy", 55 / 73, 0)
def test_certificate_scales_with_the_matrix(dtype, library, where, seed):
    least, most = DECADES[dtype]
    scale = 10.0 ** (least + where * (most - least))
    drawn = np.random.default_rng(seed).standard_normal((60, 90)).astype(dtype)
    weight = np.asarray(scale, dtype) * drawn
    exact = weight.astype(np.float64) / scale
    optimum = float(np.linalg.norm(np.linalg.svd(exact, compute_uv=False)[4:]))
    given_weight = torch.asarray(weight) if library == "torch" else weight
    plain = randomized_svd(drawn, 12).certificate(4)
    for sketch in (12, 0):
        rule = FixedRank(4) if sketch else CutoffRank(0.7)
        update, certificate = certified_svd(given_weight, rule, max_excess=1.0)
        assert certificate.exact == (sketch == 0)
        a, b = to_numpy(update.A), to_numpy(update.B)
        # Balanced factors stay in range where their product does not.
        error = np.linalg.norm(exact - (b / math.sqrt(scale)) @ (a / math.sqrt(scale)))
        assert error <= (1 + 1e-6) * certificate.error / scale
        assert certificate.norm / scale == pytest.approx(np.linalg.norm(exact), rel=1e-5)
    certificate = randomized_svd(given_weight, 12).certificate(4)
    assert certificate.optimal / scale <= optimum <= certificate.error / scale
    assert certificate.relative_error == pytest.approx(plain.relative_error, rel=1e-4)
    assert certificate.excess == pytest.approx(plain.excess, rel=1e-2)


@pytest.mark.parametrize("shape", [(10, 10), (60, 90)])
def test_a_norm_beyond_the_dtype_is_an_error(shape):
    with pytest.raises(NumericalError, match="norm overflows"):
        certified_svd(np.full(shape, 3e38, np.float32), FixedRank(4))


@settings(max_examples=40)
@given(large, st.sampled_from(("fixed:4", "energy:0.9", "energy:0.99", "cutoff:0.3")), seeds)
def test_certified_svd_meets_its_rule_and_its_certificate(case, text, seed):
    weight, rule = case.matrix(), parse(text)
    exact = to_numpy(weight)
    update, certificate = certified_svd(weight, rule, seed=seed)
    best = truncated_svd(weight, rule)
    error = float(np.linalg.norm(exact - exact_dense(update)))
    assert update.rank == certificate.rank
    assert error <= certificate.error
    assert certificate.excess <= 0.02 or certificate.exact
    if isinstance(rule, EnergyRank):
        norm, slack = np.linalg.norm(exact), tolerance(np.ones(1), case.shape, dtype=weight)
        assert error <= np.sqrt(1 - rule.p + slack) * norm * (1 + slack)
    else:
        assert update.rank == best.rank


@given(matrix_cases(sides=st.integers(40, 60), dtypes=WIDE), seeds)
@settings(max_examples=20)
def test_same_seed_gives_the_same_bits(case, seed):
    first, second = (certified_svd(case.matrix(), FixedRank(3), seed=seed) for _ in range(2))
    assert first[1] == second[1]
    np.testing.assert_array_equal(to_numpy(first[0].A), to_numpy(second[0].A))


@given(matrix_cases(dtypes=WIDE))
def test_small_matrices_are_exact(case):
    _, certificate = certified_svd(case.matrix(), CutoffRank(0.1))
    assert certificate.exact


def test_numpy_and_torch_see_the_same_sketch(rng):
    weight = rng.standard_normal((60, 90))
    ours, certificate = certified_svd(weight, FixedRank(4), seed=3)
    theirs, same = certified_svd(torch.asarray(weight), FixedRank(4), seed=3)
    assert same.optimal == pytest.approx(certificate.optimal, rel=1e-12)
    np.testing.assert_allclose(exact_dense(theirs), exact_dense(ours), atol=1e-12)
