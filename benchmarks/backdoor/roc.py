"""ROC-AUC of detectors that are never fitted on what they are tested on. Numpy only.

Every figure is the mean of a matrix of wins: whether a backdoored adapter scores above a clean
one, by a detector fitted without either. Leaving out pairs keeps the figure unbiased where leaving
out one adapter would not; adapters are resampled, rows and columns, for the interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_RIDGE = 1.0
_CLIP = 8.0
_RESAMPLES = 4000


@dataclass(frozen=True)
class Group:
    """Adapters of one label.

    Args:
        x: Features, (n, k).
        component: Component of each, which features are standardized within.
    """

    x: Floats
    component: NDArray[np.str_]

    def without(self, i: int | None) -> "Group":
        """All but one."""
        keep = np.arange(len(self.x)) != (-1 if i is None else i)
        return Group(self.x[keep], self.component[keep])


@dataclass(frozen=True)
class Area:
    """Area under a curve, with its bootstrap interval.

    Args:
        value: The area.
        low: Lower end, 95 %.
        high: Upper end.
        n_clean: Clean adapters.
        n_bad: Backdoored ones.
    """

    value: float
    low: float
    high: float
    n_clean: int
    n_bad: int


def area(wins: Floats, seed: int) -> Area:
    """Area with its interval from a matrix of wins, clean adapters in rows."""
    rng = np.random.default_rng(seed)
    n, m = wins.shape
    rows = rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES) / n
    columns = rng.multinomial(m, np.full(m, 1 / m), _RESAMPLES) / m
    draws = np.einsum("ri,ij,rj->r", rows, wins, columns)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Area(float(wins.mean()), float(low), float(high), n, m)


def wins_of(clean: Group, bad: Group, tested: Group | None = None, *, fit: bool) -> Floats:
    """Matrix of wins of backdoored adapters over clean ones.

    Args:
        clean: Clean adapters; the one of the pair is left out of bank and fit.
        bad: Backdoored adapters to fit on, without the one of the pair.
        tested: Backdoored adapters that are tested instead, none of which is fitted on.
        fit: Logistic regression; otherwise the sum of the standardized features.
    """
    others = bad if tested is None else tested
    wins = np.zeros((len(clean.x), len(others.x)))
    for i, j in np.ndindex(*wins.shape):
        known, learned = clean.without(i), bad.without(j if tested is None else None)
        pair = Group(
            np.stack([clean.x[i], others.x[j]]),
            np.array([clean.component[i], others.component[j]]),
        )
        z = standardized(pair, known)
        weights = (
            logistic(standardized(known, known), standardized(learned, known))
            if fit
            else np.ones(z.shape[1])
        )
        below, above = z @ weights
        wins[i, j] = 0.5 if below == above else float(above > below)
    return wins


def standardized(group: Group, bank: Group) -> Floats:
    """Features in standard deviations of the clean bank of the same component, clipped."""
    z = np.zeros_like(group.x)
    for component in np.unique(group.component):
        own = bank.x[bank.component == component]
        spread = own.std(0, ddof=1) + 1e-3
        rows = group.component == component
        z[rows] = (group.x[rows] - own.mean(0)) / spread
    return z.clip(-_CLIP, _CLIP)


def logistic(negative: Floats, positive: Floats) -> Floats:
    """Weights of a ridge logistic regression by Newton's method, the intercept left out."""
    x = np.concatenate([negative, positive])
    x = np.column_stack([x, np.ones(len(x))])
    y = np.repeat([0.0, 1.0], [len(negative), len(positive)])
    ridge = _RIDGE * np.eye(x.shape[1])
    ridge[-1, -1] = 1e-6
    w = np.zeros(x.shape[1])
    for _ in range(25):
        p = 1 / (1 + np.exp(-(x @ w).clip(-30, 30)))
        slope = x.T @ (p - y) + ridge @ w
        curve = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(curve, slope)
        w = w - step / max(1.0, np.abs(step).max())
        if np.abs(step).max() < 1e-8:
            break
    return w[:-1]


def stacked(rows: Sequence[dict[str, float]], names: Sequence[str]) -> Floats:
    """Features by name as a table."""
    table = np.array([[row[name] for name in names] for row in rows], np.float64)
    return table.reshape(len(rows), len(names))
