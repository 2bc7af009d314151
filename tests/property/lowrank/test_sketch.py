"""Law 3: a randomized SVD stays within what its certificate states."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.basics.arrays import to_numpy, tolerance
from loricate.lowrank.rules import CutoffRank, EnergyRank, FixedRank, parse
from loricate.lowrank.sketch import certified_svd, randomized_svd
from loricate.lowrank.svd import truncated_svd
from loricate.testing.strategies import exact_dense, matrix_cases, seeds

WIDE = ("float64", "float32")
large = matrix_cases(sides=st.integers(30, 90), dtypes=WIDE)


@settings(max_examples=40)
@given(large, st.integers(1, 24), seeds)
def test_certificate_of_a_sketch_encloses_the_truth(case, rank, seed):
    weight = case.matrix()
    exact = to_numpy(weight)
    sketch = randomized_svd(weight, 24, seed=seed)
    certificate = sketch.certificate(rank)
    s = np.linalg.svd(exact, compute_uv=False)
    optimum = float(np.linalg.norm(s[rank:]))
    assert np.linalg.norm(exact - exact_dense(sketch.svd.factors(rank))) <= certificate.error
    assert certificate.optimal <= optimum <= certificate.error
    outside = np.linalg.norm(exact - exact_dense(sketch.svd.factors(24)), 2)
    assert outside <= sketch.spectral + tolerance(s, case.shape, dtype=weight)


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
    assert certificate.excess <= 0.01 or certificate.exact
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
