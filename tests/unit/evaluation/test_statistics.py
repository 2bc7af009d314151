import itertools
import math

import numpy as np
import pytest

from loricate.basics.errors import NumericalError, ShapeError
from loricate.evaluation.statistics import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_test,
    holm,
    mcnemar_exact,
    signed_rank,
    wilson,
)

_Z2 = 1.959963984540054**2


@pytest.mark.parametrize("n", [1, 10, 100, 1000])
def test_wilson_at_no_success_is_z2_over_n_plus_z2(n: int) -> None:
    interval = wilson(0, n)
    assert (interval.value, interval.low) == (0.0, 0.0)
    assert interval.high == pytest.approx(_Z2 / (n + _Z2), rel=1e-12)


@pytest.mark.parametrize(("n", "points"), [(32, 16.4), (64, 11.9), (100, 9.6), (500, 4.4)])
def test_wilson_half_widths_at_one_half(n: int, points: float) -> None:
    interval = wilson(n // 2, n)
    assert 50 * (interval.high - interval.low) == pytest.approx(points, abs=0.06)
    assert interval.low + interval.high == pytest.approx(1.0)


def test_wilson_ends_solve_the_score_equation() -> None:
    interval = wilson(7, 40)
    for p in (interval.low, interval.high):
        assert (7 / 40 - p) ** 2 == pytest.approx(_Z2 * p * (1 - p) / 40, rel=1e-9)


def test_wilson_without_trials_knows_nothing() -> None:
    interval = wilson(0, 0)
    assert math.isnan(interval.value)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_wilson_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ShapeError):
        wilson(3, 2)


def test_bootstrap_of_a_large_sample_meets_the_normal_interval(rng: np.random.Generator) -> None:
    values = rng.normal(3.0, 2.0, 400)
    interval = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.05)
    assert (interval.n, interval.method) == (400, "bootstrap")


def test_bootstrap_of_two_values_is_worked_by_hand() -> None:
    # Resamples of (0, 1) have mean 0, 1/2, 1 with chance 1/4, 1/2, 1/4.
    wide = bootstrap_mean([0.0, 1.0], seed=0)
    narrow = bootstrap_mean([0.0, 1.0], seed=0, level=0.4)
    assert (wide.low, wide.high) == (0.0, 1.0)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_clusters_widen_an_interval_by_what_their_copies_hide(rng: np.random.Generator) -> None:
    values = np.repeat(rng.normal(size=50), 4)
    plain = bootstrap_mean(values, seed=0)
    clustered = bootstrap_mean(values, seed=0, clusters=np.repeat(np.arange(50), 4))
    assert clustered.high - clustered.low == pytest.approx(2 * (plain.high - plain.low), rel=0.1)


def test_one_cluster_says_nothing() -> None:
    interval = bootstrap_mean([1.0, 2.0], seed=0, clusters=["a", "a"])
    assert (interval.value, interval.low, interval.high) == (1.5, -math.inf, math.inf)


def test_pairing_removes_what_both_share(rng: np.random.Generator) -> None:
    shared = rng.normal(0.0, 100.0, 60)
    interval = bootstrap_difference(shared + 1.0, shared, seed=0)
    assert interval.value == pytest.approx(1.0)
    assert interval.high - interval.low < 1e-9


def test_ratio_is_of_means_not_a_mean_of_ratios() -> None:
    assert bootstrap_ratio([1.0, 9.0], [1.0, 1.0], seed=0).value == 5.0
    assert bootstrap_ratio([3.0, 3.0], [0.5, 5.5], seed=0).value == 1.0


def test_a_vanishing_denominator_gives_infinity() -> None:
    interval = bootstrap_ratio([1.0, 2.0], [0.0, 0.0], seed=0)
    assert (interval.value, interval.low, interval.high) == (math.inf, math.inf, math.inf)


def test_draws_of_zero_over_zero_widen_the_interval() -> None:
    interval = bootstrap_ratio([1.0, 0.0], [1.0, 0.0], seed=0)
    assert (interval.value, interval.low, interval.high) == (1.0, -math.inf, math.inf)


@pytest.mark.parametrize("bad", [[1.0, math.nan], [math.inf, 1.0]])
def test_nan_and_infinity_are_refused(bad: list[float]) -> None:
    with pytest.raises(NumericalError):
        bootstrap_mean(bad, seed=0)


def test_several_trainings_widen_the_interval() -> None:
    samples = np.random.default_rng(3).normal(size=40)
    alike = np.stack([samples] * 3)
    apart = alike + np.array([[-1.0], [0.0], [1.0]])
    one, three = bootstrap_mean(samples, seed=0), bootstrap_mean(alike, seed=0)
    # Trainings that end alike add nothing, and the samples are drawn as without them.
    assert (three.value, three.low, three.high) == pytest.approx((one.value, one.low, one.high))
    spread = bootstrap_mean(apart, seed=0)
    assert spread.value == pytest.approx(one.value)
    assert spread.high - spread.low > 2 * (one.high - one.low)
    assert bootstrap_difference(apart, alike, seed=0).value == pytest.approx(0.0)


@pytest.mark.parametrize("spread", [0.0, 0.05, 0.2])
def test_intervals_over_three_trainings_hold_the_truth(spread: float) -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        trainings = rng.normal(0, spread, (3, 1))
        table = trainings + rng.normal(0, 0.3, (1, 40)) + rng.normal(0, 0.05, (3, 40))
        interval = bootstrap_mean(table, seed=0)
        held += interval.low <= 0 <= interval.high
    assert held >= 54  # of 60, at a level of 95 %


def test_equal_defenses_are_rarely_told_apart() -> None:
    rng, rejected = np.random.default_rng(1), 0
    for _ in range(60):
        shared = rng.normal(0, 0.3, (1, 40))
        first, second = (shared + rng.normal(0, 0.07, (3, 1)) for _ in range(2))
        first, second = (x + rng.normal(0, 0.1, x.shape) for x in (first, second))
        rejected += bootstrap_test(first, second, seed=0) < 0.05
    assert rejected <= 6
    apart = bootstrap_test(shared.repeat(3, 0) + 1, shared.repeat(3, 0), seed=0)
    assert apart == pytest.approx(2 / 10_001)


def test_a_negative_ratio_is_refused() -> None:
    with pytest.raises(NumericalError, match="at least 0"):
        bootstrap_ratio([-1.0], [1.0], seed=0)


@pytest.mark.parametrize("bad", [[], [[[1.0]]]])
def test_shapes_are_checked(bad: object) -> None:
    with pytest.raises(ShapeError):
        bootstrap_mean(bad, seed=0)


def test_pairs_must_match() -> None:
    with pytest.raises(ShapeError, match="paired"):
        bootstrap_difference([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(ShapeError):
        bootstrap_mean([1.0, 2.0], seed=0, clusters=[0])


@pytest.mark.parametrize(
    ("only_first", "only_second", "both", "p"),
    [(6, 0, 3, 2 / 64), (0, 6, 0, 2 / 64), (5, 1, 9, 14 / 64), (3, 3, 0, 1.0), (0, 0, 4, 1.0)],
)
def test_mcnemar_counts_binomial_tails(
    only_first: int, only_second: int, both: int, p: float
) -> None:
    first = [True] * only_first + [False] * only_second + [True] * both
    second = [False] * only_first + [True] * only_second + [True] * both
    assert mcnemar_exact(first, second) == pytest.approx(p)


def test_mcnemar_survives_thousands_of_disagreements() -> None:
    assert mcnemar_exact([True] * 5000, [False] * 5000) == 0.0


def test_mcnemar_needs_pairs() -> None:
    with pytest.raises(ShapeError):
        mcnemar_exact([True], [True, False])


def _by_all_signs(differences: list[float]) -> float:
    """The definition: every sign is as likely, and ties share the mean of their ranks."""
    sizes = sorted(map(abs, differences))
    ranks = [np.mean([i + 1 for i, s in enumerate(sizes) if s == abs(d)]) for d in differences]
    middle = sum(ranks) / 2
    seen = abs(sum(r for r, d in zip(ranks, differences, strict=True) if d > 0) - middle)
    signs = list(itertools.product([0, 1], repeat=len(ranks)))
    return float(np.mean([abs(np.dot(s, ranks) - middle) >= seen - 1e-9 for s in signs]))


@pytest.mark.parametrize(
    "differences",
    [[1.0], [1.0, 2.0, 3.0, 4.0, 5.0], [3.0, -1.0, 2.0, 2.0, -2.0, 5.0], [1.0, -1.0], [2.0] * 8],
)
def test_signed_ranks_count_all_signs(differences: list[float]) -> None:
    zeros = [0.0] * len(differences)
    assert signed_rank(differences, zeros) == pytest.approx(_by_all_signs(differences))
    assert signed_rank(zeros, differences) == pytest.approx(_by_all_signs(differences))


def test_signed_ranks_forget_pairs_without_difference() -> None:
    assert signed_rank([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert signed_rank([1.0, 5.0, 7.0, 9.0], [1.0, 4.0, 5.0, 6.0]) == 2 / 8


def test_many_pairs_take_the_normal_law_of_their_sum(rng) -> None:
    first = rng.normal(0.3, 1.0, 60).round(1)
    differences = first[first != 0]
    drawn = rng.random((100_000, differences.size)) < 0.5
    order = np.abs(differences)
    ranks = (order[:, None] > order).sum(1) + ((order[:, None] == order).sum(1) + 1) / 2
    middle = ranks.sum() / 2
    seen = abs(ranks[differences > 0].sum() - middle)
    expected = (np.abs(drawn @ ranks - middle) >= seen - 1e-9).mean()
    assert 0.0 < expected < 0.5
    assert signed_rank(first, np.zeros(60)) == pytest.approx(expected, abs=0.006)


def test_signed_ranks_need_pairs_of_numbers() -> None:
    with pytest.raises(ShapeError):
        signed_rank([1.0], [1.0, 2.0])
    with pytest.raises(NumericalError):
        signed_rank([math.nan], [0.0])


def test_holm_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


def test_holm_refuses_what_is_no_probability() -> None:
    with pytest.raises(NumericalError):
        holm([0.5, math.nan])


def test_intervals_that_touch_are_not_apart() -> None:
    low = Interval(value=0.1, low=0.0, high=0.2, n=9, method="wilson")
    touching = Interval(value=0.3, low=0.2, high=0.4, n=9, method="wilson")
    beyond = Interval(value=0.3, low=0.21, high=0.4, n=9, method="wilson")
    assert not low.apart(touching)
    assert low.apart(beyond)
    assert beyond.apart(low)
