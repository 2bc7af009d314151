"""Law 2: rank rules against a naive loop in exact arithmetic, and what they ignore."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.arrays import tolerance, unit_roundoff
from loricate.lowrank.rules import (
    CutoffRank,
    EnergyRank,
    FixedRank,
    NuclearRank,
    NumericalRank,
    certified_error,
    numerical_rank,
    parse,
)
from loricate.testing.strategies import SPECTRA, matrix_cases, seeds

SHARES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0)
CUTOFFS = (0.9, 0.5, 0.1, 0.01, 1e-6, 0.0)
CHAINS = {
    "fixed": [FixedRank(k) for k in range(1, 14)],
    "energy": [EnergyRank(p) for p in SHARES],
    "nuclear": [NuclearRank(p) for p in SHARES],
    "cutoff": [CutoffRank(c) for c in CUTOFFS],
}
RULES = [rule for chain in CHAINS.values() for rule in chain] + [NumericalRank()]

cases = matrix_cases(dtypes=("float64", "float32"), libraries=("numpy",))


def spectrum(case):
    return case.values().astype(case.dtype)


@given(cases, st.sampled_from(sorted(CHAINS)))
def test_rank_grows_with_the_threshold(case, chain):
    ranks = [rule.rank(spectrum(case), case.shape) for rule in CHAINS[chain]]
    assert ranks == sorted(ranks)


@given(cases, st.sampled_from(RULES))
def test_rank_lies_between_zero_and_the_shape(case, rule):
    rank = rule.rank(spectrum(case), case.shape)
    assert 0 <= rank <= min(case.shape)
    assert (rank == 0) == (case.spectrum == "zero")


@given(cases, st.sampled_from(SHARES), st.sampled_from((1, 2)))
def test_share_equals_a_naive_loop(case, share, power):
    s = spectrum(case)
    rule = EnergyRank(share) if power == 2 else NuclearRank(share)
    terms = [Fraction(float(value)) ** power for value in s]
    ceiling = sum(v > max(case.shape) * unit_roundoff(s) * s[0] for v in s.tolist())
    slack = Fraction(8 * unit_roundoff(s) * max(case.shape))
    expected = ceiling
    for k in range(ceiling, 0, -1):
        if share < 1.0 and sum(terms[:k]) >= (Fraction(share) - slack) * sum(terms):
            expected = k
    assert rule.rank(s, case.shape) == expected


@given(cases, st.sampled_from(CUTOFFS[:-2]))
def test_cutoff_counts_what_is_strictly_above(case, c):
    s = spectrum(case)
    atol = tolerance(s, case.shape)
    assert CutoffRank(c).rank(s, case.shape) == sum(v > c * s[0] + atol for v in s.tolist())


@given(cases)
def test_threshold_one_keeps_the_numerical_rank(case):
    s = spectrum(case)
    expected = numerical_rank(s, case.shape)
    assert EnergyRank(1.0).rank(s, case.shape) == expected
    assert NuclearRank(1.0).rank(s, case.shape) == expected
    assert CutoffRank(0.0).rank(s, case.shape) <= expected


@given(cases, st.sampled_from(RULES), st.integers(-8, 8))
def test_scaling_changes_nothing(case, rule, exponent):
    s = spectrum(case)
    scaled = s * s.dtype.type(2.0**exponent)
    assert rule.rank(scaled, case.shape) == rule.rank(s, case.shape)


@given(cases, st.sampled_from(RULES), seeds)
def test_rotations_change_nothing(case, rule, seed):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in case.shape)
    exact = case.exact()
    ranks = {
        rule.rank(np.linalg.svd(matrix, compute_uv=False).astype(np.float32), case.shape)
        for matrix in (exact, left @ exact @ right)
    }
    assert len(ranks) == 1


@given(cases, st.integers(0, 12))
def test_certified_error_covers_the_dropped_values(case, rank):
    s = spectrum(case)
    bound = certified_error(s, case.shape, rank)
    norm = float(np.linalg.norm(case.values()))
    truth = float(np.linalg.norm(case.values()[rank:])) / norm if norm else 0.0
    allowance = 2 * tolerance(s, case.shape) / norm if norm else 0.0
    assert truth <= bound <= min(1.0, truth + allowance)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_written_form_parses_back(rule):
    assert parse(str(rule)) == rule


def test_all_spectra_descend():
    for name, values in SPECTRA.items():
        assert np.all(np.diff(values(9)) <= 0), name
