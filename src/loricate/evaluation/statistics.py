"""Intervals and tests for the numbers in a record. Numpy only.

Rates get Wilson intervals, means and their ratios and differences a paired bootstrap that
resamples whole clusters, differences between two models on the same samples an exact McNemar
test for rates and Wilcoxon's signed ranks for numbers, and families of tests Holm's correction.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loricate.basics.errors import NumericalError, ShapeError
from loricate.basics.seeds import derive_seed

__all__ = [
    "Interval",
    "bootstrap_difference",
    "bootstrap_mean",
    "bootstrap_ratio",
    "bootstrap_test",
    "holm",
    "mcnemar_exact",
    "signed_rank",
    "wilson",
]

_Floats: TypeAlias = NDArray[np.float64]
_Statistic: TypeAlias = Callable[[_Floats], _Floats]

_RESAMPLES: Final = 10_000
_CHUNK: Final = 500
_EXACT: Final = 50  # pairs up to which the sums of ranks are enumerated


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A point estimate with the interval around it.

    Args:
        value: Point estimate.
        low: Lower end.
        high: Upper end.
        n: Samples behind it.
        method: How the interval was made.
        level: Coverage.
    """

    value: float
    low: float
    high: float
    n: int
    method: str
    level: float = 0.95

    def apart(self, other: "Interval") -> bool:
        """Whether the two intervals share no point."""
        return self.high < other.low or other.high < self.low


def wilson(successes: int, n: int, *, level: float = 0.95) -> Interval:
    """Rate with its Wilson score interval, which stays in [0, 1] and is honest at 0 and 1.

    Args:
        successes: How often it happened.
        n: How often it could have; 0 gives the interval [0, 1] around NaN.
        level: Coverage.

    Returns:
        Interval around ``successes / n``.

    Source: Wilson 1927 [wilson1927].
    """
    if not 0 <= successes <= n:
        raise ShapeError(f"successes in [0, {n}]", successes, where="successes")
    if n == 0:
        return Interval(value=math.nan, low=0.0, high=1.0, n=0, method="wilson", level=level)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    rate, shrink = successes / n, 1 + z * z / n
    center = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the formula is exact only on paper; rounding would leave 1e-18 instead of 0.
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == n else center + half
    return Interval(value=rate, low=low, high=high, n=n, method="wilson", level=level)


def bootstrap_mean(
    values: ArrayLike, *, seed: int, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Mean with its percentile bootstrap interval.

    Args:
        values: One number per sample, (n,), or one per training and sample, (r, n).
        seed: Root seed; the draws depend on nothing else.
        clusters: A label per sample. Samples that share one, such as restarts of one picture, are
            resampled together. With a single cluster the interval is infinite: nothing is known.
        level: Coverage.

    Returns:
        Interval between percentiles of 10,000 resampled means. Few trainings cannot be resampled:
        to each mean a draw of Student's t with r - 1 degrees of freedom is added, times the
        standard error of the mean over trainings, so that two of them say next to nothing.

    Raises:
        ShapeError: ``values`` is empty or has more axes, or ``clusters`` does not match.
        NumericalError: ``values`` holds NaN or infinity.

    Source: Efron 1979 [efron1979]; the two parts add up as in the test of Behrens and Fisher
    [fisher1935].
    """
    column = _column(values, "values")
    plan = _Resampling(seed=seed, clusters=clusters, level=level)
    return plan.interval(lambda total: total[0] / total[1], column, np.ones_like(column))


def bootstrap_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    seed: int,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Mean of ``first`` minus mean of ``second``, paired by sample; see ``bootstrap_mean``."""
    ahead, behind = _pair(first, second)
    ones = np.ones_like(ahead)
    plan = _Resampling(seed=seed, clusters=clusters, level=level)
    return plan.interval(_mean_difference, ahead, behind, ones)


def bootstrap_test(first: ArrayLike, second: ArrayLike, *, seed: int) -> float:
    """Two-sided p-value that two means are equal, from the draws of ``bootstrap_difference``.

    Args:
        first: As there; of several trainings, so that the test is about training as well.
        second: The same of another model.
        seed: Root seed.

    Returns:
        At least 2 / 10,001.
    """
    ahead, behind = _pair(first, second)
    plan = _Resampling(seed=seed, clusters=None, level=0.95)
    return plan.p_value(_mean_difference, ahead, behind, np.ones_like(ahead))


def bootstrap_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    seed: int,
    clusters: ArrayLike | None = None,
    level: float = 0.95,
) -> Interval:
    """Mean of ``numerator`` over mean of ``denominator``, paired by sample.

    A ratio of means, not a mean of ratios: one sample near zero cannot dominate it. Where the
    denominator vanishes the ratio is infinite, or NaN if the numerator vanishes too; such draws
    widen the interval to the side they could lie on.

    Args:
        numerator: One number of at least 0 per sample.
        denominator: As ``numerator``, for the same samples.
        seed: As in ``bootstrap_mean``.
        clusters: As in ``bootstrap_mean``.
        level: Coverage.

    Returns:
        Interval between percentiles of 10,000 resampled ratios.

    Raises:
        ShapeError: As in ``bootstrap_mean``, or the samples do not pair up.
        NumericalError: A number is negative, NaN or infinite.
    """
    above, below = _pair(numerator, denominator)
    if min(above.min(), below.min()) < 0:
        raise NumericalError("a ratio of means needs numbers of at least 0")
    plan = _Resampling(seed=seed, clusters=clusters, level=level)
    return plan.interval(_quotient, above, below)


def mcnemar_exact(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided p-value that two models fail equally often on the same samples.

    Only samples on which they disagree count; with none of those the p-value is 1.

    Args:
        first: Whether each sample broke the first model.
        second: The same for the second model.

    Returns:
        The p-value.

    Source: McNemar 1947 [mcnemar1947], in its exact binomial form.
    """
    one, two = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if one.shape != two.shape or one.ndim != 1:
        raise ShapeError("two flat arrays of one length", (one.shape, two.shape))
    only_first, only_second = int((one & ~two).sum()), int((two & ~one).sum())
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    # Integers up to here: 2**n overflows a float long before n runs out of samples.
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def signed_rank(first: ArrayLike, second: ArrayLike) -> float:
    """Two-sided p-value that paired differences lie symmetrically around zero.

    Pairs without a difference are left out; with none left the p-value is 1. Up to 50 pairs it is
    exact, tied ranks included; beyond it is that of the normal approximation, corrected for ties
    and for continuity.

    Args:
        first: One number per sample.
        second: The same for the second model, on the same samples.

    Returns:
        The p-value.

    Raises:
        ShapeError: The samples do not pair up.
        NumericalError: A number is NaN or infinite.

    Source: Wilcoxon 1945 [wilcoxon1945].
    """
    one, two = _pair(first, second)
    if one.ndim != 1:
        raise ShapeError("two flat arrays of one length", one.shape)
    differences = (one - two)[one != two]
    if differences.size == 0:
        return 1.0
    _, index, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
    # Twice the mean rank of every group of ties: an integer, so that sums can be enumerated.
    doubled = (2 * np.cumsum(counts) - counts + 1)[index]
    positive = int(doubled[differences > 0].sum())
    if differences.size <= _EXACT:
        return _enumerated(doubled, positive)
    mean, variance = doubled.sum() / 2, float(np.square(doubled).sum()) / 4
    excess = max(abs(positive - mean) - 1.0, 0.0)
    return 2 * NormalDist().cdf(-excess / math.sqrt(variance))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """P-values adjusted so that the chance of any false claim in the family stays at the level.

    Args:
        p_values: One per hypothesis, in any order.

    Returns:
        Adjusted p-values in the same order.

    Source: Holm 1979 [holm1979].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.size and not (p.min() >= 0 and p.max() <= 1):
        raise NumericalError("a p-value lies outside [0, 1]", where="p_values")
    order = np.argsort(p, kind="stable")
    stepped = p[order] * np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return tuple(adjusted.tolist())


@dataclass(frozen=True, kw_only=True)
class _Resampling:
    """Which samples are drawn together, how often, and from which seed."""

    seed: int
    clusters: ArrayLike | None
    level: float

    def interval(self, statistic: _Statistic, *columns: _Floats) -> Interval:
        """Percentile interval of a statistic of column sums."""
        sums = self._per_cluster(_stacked(columns))
        value, draws = self._drawn(statistic, sums)
        low, high = self._percentiles(draws) if sums.shape[2] > 1 else (-math.inf, math.inf)
        method = "bootstrap" if sums.shape[1] == 1 else "bootstrap, t over trainings"
        n = columns[0].shape[-1]
        return Interval(value=value, low=low, high=high, n=n, method=method, level=self.level)

    def p_value(self, statistic: _Statistic, *columns: _Floats) -> float:
        """How little of the draws lies on the other side of zero, twice."""
        _, draws = self._drawn(statistic, self._per_cluster(_stacked(columns)))
        rarer = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
        return min(1.0, 2 * (rarer + 1) / (draws.size + 1))

    def _drawn(self, statistic: _Statistic, sums: _Floats) -> tuple[float, _Floats]:
        """The statistic, and draws of it, from sums by column, training and cluster."""
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(statistic(sums.sum(axis=(1, 2))))
            draws = statistic(self._resampled(sums.sum(axis=1)))
            return value, draws + self._spread(statistic(sums.sum(axis=2)))

    def _spread(self, of_trainings: _Floats) -> _Floats:
        """What the mean over so many trainings may be off by."""
        n = of_trainings.size
        if n == 1:
            return np.zeros(1)
        generator = np.random.default_rng(derive_seed(self.seed, "trainings"))
        error = of_trainings.std(ddof=1) / math.sqrt(n)
        return np.asarray(error * generator.standard_t(n - 1, size=_RESAMPLES), np.float64)

    def _per_cluster(self, columns: _Floats) -> _Floats:
        """Sums of (k, trainings, samples) over the samples of each cluster."""
        if self.clusters is None:
            return columns
        labels = np.asarray(self.clusters)
        if labels.shape != columns.shape[2:]:
            raise ShapeError(f"shape {columns.shape[2:]}", labels.shape, where="clusters")
        names, index = np.unique(labels, return_inverse=True)
        flat = columns.reshape(-1, columns.shape[2])
        summed = np.stack([np.bincount(index, weights=row) for row in flat])
        return np.asarray(summed, np.float64).reshape(*columns.shape[:2], len(names))

    def _resampled(self, sums: _Floats) -> _Floats:
        """Sums over resampled clusters, (k, draws)."""
        generator = np.random.default_rng(derive_seed(self.seed, "bootstrap"))
        n = sums.shape[1]
        # Counts instead of indices, and in chunks: a draw costs n numbers rather than n lookups.
        counts = (
            generator.multinomial(n, np.full(n, 1 / n), size=_CHUNK)
            for _ in range(_RESAMPLES // _CHUNK)
        )
        return np.concatenate([sums @ chunk.T for chunk in counts], axis=1)

    def _percentiles(self, draws: _Floats) -> tuple[float, float]:
        tail = (1 - self.level) / 2
        # Order statistics, since interpolating next to an infinite draw would give NaN.
        undecided = np.isnan(draws)
        low = np.quantile(np.where(undecided, -np.inf, draws), tail, method="lower")
        high = np.quantile(np.where(undecided, np.inf, draws), 1 - tail, method="higher")
        return float(low), float(high)


def _enumerated(ranks: NDArray[np.int64], observed: int) -> float:
    """Share of all signs whose positive ranks sum to something as far from the middle."""
    total = int(ranks.sum())
    ways = [1] + [0] * total
    for rank in map(int, ranks):
        for at in range(total, rank - 1, -1):
            ways[at] += ways[at - rank]
    distance = abs(2 * observed - total)
    extreme = sum(n for at, n in enumerate(ways) if abs(2 * at - total) >= distance)
    return float(Fraction(extreme, 2**ranks.size))


def _stacked(columns: Sequence[_Floats]) -> _Floats:
    """Columns by training and sample, (k, r, n)."""
    return np.stack([np.atleast_2d(column) for column in columns])


def _mean_difference(total: _Floats) -> _Floats:
    return np.asarray((total[0] - total[1]) / total[2])


def _quotient(total: _Floats) -> _Floats:
    return np.asarray(total[0] / total[1])


def _column(values: ArrayLike, where: str) -> _Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim not in (1, 2) or column.size == 0:
        raise ShapeError("at least one number, (n,) or (r, n)", column.shape, where=where)
    if not np.isfinite(column).all():
        raise NumericalError("NaN or infinity among the samples", where=where)
    return column


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[_Floats, _Floats]:
    one, two = _column(first, "first"), _column(second, "second")
    if one.shape != two.shape:
        raise ShapeError(f"shape {one.shape}, paired by sample", two.shape, where="second")
    return one, two
