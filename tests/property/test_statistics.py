"""Laws of intervals and tests."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.evaluation.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    holm,
    mcnemar_exact,
    wilson,
)

_COUNTS = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
# Each example resamples 10,000 times, which a busy machine may stretch past any deadline.
_FEWER = settings(max_examples=25, deadline=None)
_P = st.lists(st.floats(0, 1), max_size=8)


@given(_COUNTS, st.floats(0.5, 0.999))
def test_wilson_contains_the_rate_and_mirrors(counts: tuple[int, int], level: float) -> None:
    successes, n = counts
    one = wilson(successes, n, level=level)
    other = wilson(n - successes, n, level=level)
    assert 0 <= one.low <= one.value <= one.high <= 1
    assert one.low == pytest.approx(1 - other.high, abs=1e-12)
    assert one.high == pytest.approx(1 - other.low, abs=1e-12)


@given(_COUNTS, st.floats(0.5, 0.95))
def test_wilson_widens_with_its_level(counts: tuple[int, int], level: float) -> None:
    narrow, wide = wilson(*counts, level=level), wilson(*counts, level=level + 0.04)
    assert wide.low <= narrow.low
    assert narrow.high <= wide.high


@_FEWER
@given(st.integers(2, 40), st.integers(0, 2**31), st.integers(-3, 3), st.integers(-5, 5))
def test_bootstrap_moves_with_the_data(n: int, seed: int, power: int, shift: int) -> None:
    values = np.random.default_rng(seed).normal(size=n)
    scale = 2.0**power
    plain = bootstrap_mean(values, seed=seed)
    moved = bootstrap_mean(scale * values + shift, seed=seed)
    for end in ("value", "low", "high"):
        expected = scale * getattr(plain, end) + shift
        assert getattr(moved, end) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert values.min() - 1e-12 <= plain.low <= plain.high <= values.max() + 1e-12


@_FEWER
@given(st.integers(2, 30), st.integers(0, 2**31))
def test_a_difference_is_the_mean_of_differences(n: int, seed: int) -> None:
    first, second = np.random.default_rng(seed).normal(size=(2, n))
    paired = bootstrap_difference(first, second, seed=seed)
    direct = bootstrap_mean(first - second, seed=seed)
    assert paired.low == pytest.approx(direct.low, abs=1e-9)
    assert paired.high == pytest.approx(direct.high, abs=1e-9)


@_FEWER
@given(st.integers(2, 30), st.integers(0, 2**31), st.floats(0.1, 10))
def test_a_constant_ratio_has_no_width(n: int, seed: int, ratio: float) -> None:
    below = np.random.default_rng(seed).uniform(0.5, 2.0, n)
    interval = bootstrap_ratio(ratio * below, below, seed=seed)
    assert interval.low == pytest.approx(ratio)
    assert interval.high == pytest.approx(ratio)


@_FEWER
@given(st.integers(2, 30), st.integers(0, 2**31))
def test_own_clusters_change_nothing(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=n)
    assert bootstrap_mean(values, seed=seed) == bootstrap_mean(
        values, seed=seed, clusters=np.arange(n)
    )


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_symmetric_and_a_probability(pairs: list[tuple[bool, bool]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    p = mcnemar_exact(first, second)
    assert 0 < p <= 1
    assert p == mcnemar_exact(second, first)


@given(_P)
def test_holm_keeps_order_and_lies_between_plain_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for plain, value in zip(p, adjusted, strict=True):
        assert plain <= value <= min(1.0, len(p) * plain)
    ranked = [adjusted[index] for index in np.argsort(p, kind="stable")]
    assert ranked == sorted(ranked)


@given(_P, st.floats(0.01, 0.2))
def test_holm_rejects_what_the_step_down_loop_rejects(p: list[float], level: float) -> None:
    rejected: set[int] = set()
    for step, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] * (len(p) - step) > level:
            break
        rejected.add(int(index))
    assert {i for i, value in enumerate(holm(p)) if value <= level} == rejected
