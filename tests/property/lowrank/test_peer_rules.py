"""Rules of other tools against loops written from what those tools document and do."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from loricate.basics.errors import UnsupportedError
from loricate.lowrank.rules import OptimalRank, numerical_rank, parse
from loricate.testing.strategies import matrix_cases, seeds

SHARES = (0.05, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
SPECTRA = ("geometric", "spiked", "deficient", "flat", "repeated")
cases = matrix_cases(dtypes=("float64",), libraries=("numpy",), spectra=SPECTRA)


def first_reaching(terms, goal):
    """Position, counted from 0, of the first running sum that reaches a goal."""
    total = 0.0
    for position, term in enumerate(terms):
        total += term
        if total >= goal:
            return position
    return len(terms)


def kohya(count, n_values):
    """kohya clips a count to all values but one, and keeps one component more than that."""
    if count > n_values - 1:
        count = n_values - 1
    if count < 1:
        count = 1
    return count + 1


def loop(name, value, s, n_values):
    """Rank the tool keeps, before anything caps it."""
    match name:
        case "kohya:sv_ratio":
            return kohya(len([v for v in s if v > s[0] / value]), n_values)
        case "kohya:sv_cumulative":
            return kohya(first_reaching(s, value * running_sum(s)) + 1, n_values)
        case "kohya:sv_fro":
            squares = [v * v for v in s]
            return kohya(first_reaching(squares, value**2 * running_sum(squares)) + 1, n_values)
        case "lycoris:quantile":
            below, total = 0, 0.0
            for v in s:
                total += v
                below += total < value * running_sum(s)
            return max(1, below)
        case "peft:energy":
            squares = [v * v for v in s]
            return first_reaching(squares, value * running_sum(squares)) + 1
    raise AssertionError(name)


def running_sum(terms):
    # Added up in the order of a running sum, so that the last one equals it to the last bit.
    total = 0.0
    for term in terms:
        total += term
    return total


NAMES = ("kohya:sv_cumulative", "kohya:sv_fro", "lycoris:quantile", "peft:energy")
RULES = [(name, share) for name in NAMES for share in SHARES]
RULES += [("kohya:sv_ratio", ratio) for ratio in (1.0, 1.5, 2.0, 10.0, 1e4)]


@given(cases, st.sampled_from(RULES))
def test_peer_rules_equal_a_loop(case, rule):
    name, value = rule
    s = case.values()
    expected = min(numerical_rank(s, case.shape), loop(name, value, s.tolist(), len(s)))
    assert parse(f"{name}:{value}").rank(s, case.shape) == expected


@given(cases, st.sampled_from(RULES))
def test_zeros_that_factors_leave_out_change_nothing(case, rule):
    s = case.values()
    short = s[: numerical_rank(s, case.shape)]
    name, value = rule
    tool = parse(f"{name}:{value}")
    assert tool.rank(short, case.shape) == tool.rank(s, case.shape)


@pytest.mark.parametrize("text", [f"{name}:{value!r}" for name, value in RULES] + ["optimal"])
def test_written_form_parses_back(text):
    assert str(parse(text)) == text


@given(st.integers(0, 8), st.tuples(st.integers(60, 90), st.integers(60, 90)), seeds)
def test_optimal_threshold_finds_the_signal_in_noise(rank, shape, seed):
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, max(rank, 1))))[0] for n in shape)
    # White noise of norm about 2; signals far above it count, and nothing else does.
    noise = rng.standard_normal(shape) / math.sqrt(max(shape))
    matrix = noise + 8.0 * (left @ right.T if rank else 0.0)
    s = np.linalg.svd(matrix, compute_uv=False)
    assert OptimalRank().rank(s, shape) == rank


@given(cases)
def test_optimal_threshold_refuses_products_of_known_rank(case):
    s = case.values()
    assume(len(s) > 1)
    with pytest.raises(UnsupportedError, match="noise floor"):
        OptimalRank().rank(s[:-1], case.shape)
