"""Sanity flags: signs that an attack failed rather than that a defense worked."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from loricate.records.names import NO_ATTACK, RANDOM_NOISE
from loricate.records.schema import Aggregate, Check, SampleRow

__all__ = ["row_checks"]

Level = Literal["ok", "warning", "error", "skipped"]

_SHIFT: Final = "latent_shift"
_SLACK: Final = 0.02  # of a drift: less than a bootstrap interval of 100 samples resolves
_MOVED: Final = 0.99
_ROUNDING: Final = 1e-5
_TINY: Final = 1e-12


def row_checks(
    rows: Sequence[SampleRow], aggregates: Sequence[Aggregate], subject: str
) -> list[Check]:
    """Checks that need nothing but the rows of one subject.

    Args:
        rows: Rows of the run.
        aggregates: Their aggregates.
        subject: Whose.

    Returns:
        One check a kind.
    """
    attacked = [
        row
        for row in rows
        if row.subject == subject and row.attack not in (NO_ATTACK, RANDOM_NOISE)
    ]
    own = [a for a in aggregates if a.subject == subject and a.metric == "latent_drift"]
    return [
        _zero_gradient(attacked, subject),
        _stationary_start(attacked, subject),
        _budget([row for row in rows if row.subject == subject], subject),
        _random_at_least_pgd(own, subject),
        _more_epsilon(own, subject),
    ]


def _zero_gradient(rows: Sequence[SampleRow], subject: str) -> Check:
    first = _measured(rows, "first_gradient")
    is_fine = min(first) > 0.0 if first else None
    message = f"smallest mean absolute gradient at a start: {min(first, default=math.nan):.3g}"
    data = {"smallest": min(first)} if first else {}
    return _judged("zero_gradient", subject, is_fine, message, data)


def _stationary_start(rows: Sequence[SampleRow], subject: str) -> Check:
    gains = [
        row.values["objective"] > row.values["objective_start"]
        for row in rows
        if "objective_start" in row.values
    ]
    share = float(np.mean(gains)) if gains else math.nan
    message = f"{share:.1%} of the attacked samples gained on their random start"
    is_fine = share >= _MOVED if gains else None
    data = {"moved": share} if gains else {}
    return _judged("stationary_start", subject, is_fine, message, data)


def _budget(rows: Sequence[SampleRow], subject: str) -> Check:
    excess = [row.values["delta_size"] - row.epsilon for row in rows if "delta_size" in row.values]
    worst = max(excess, default=math.nan)
    message = f"largest perturbation after rounding exceeds its radius by {max(worst, 0.0):.2g}"
    is_fine = worst <= _ROUNDING if excess else None
    data = {"excess": worst} if excess else {}
    return _judged("budget_after_rounding", subject, is_fine, message, data)


def _random_at_least_pgd(drifts: Sequence[Aggregate], subject: str) -> Check:
    noise = _by_epsilon(a for a in drifts if a.attack == RANDOM_NOISE)
    attack = _by_epsilon(a for a in drifts if a.objective == _SHIFT)
    shared = sorted(noise.keys() & attack.keys())
    ratios = {_levels(e): attack[e] / max(noise[e], _TINY) for e in shared}
    words = ", ".join(f"{ratio:.1f} at {e}/255" for e, ratio in ratios.items())
    is_fine = all(attack[e] > noise[e] for e in shared) if shared else None
    data = {f"ratio_{e}": ratio for e, ratio in ratios.items()}
    message = f"latent drift by attack over noise: {words or 'not measured'}"
    return _judged("random_at_least_pgd", subject, is_fine, message, data)


def _more_epsilon(drifts: Sequence[Aggregate], subject: str) -> Check:
    curve = _by_epsilon(a for a in drifts if a.objective == _SHIFT)
    words = ", ".join(f"{drift:.3f} at {_levels(e)}/255" for e, drift in curve.items())
    is_fine = _rises([*curve.values()]) if len(curve) > 1 else None
    data = {f"drift_{_levels(e)}": drift for e, drift in curve.items()}
    message = f"latent drift by radius: {words or 'not measured'}"
    return _judged("more_epsilon_not_stronger", subject, is_fine, message, data)


def _measured(rows: Iterable[SampleRow], metric: str) -> list[float]:
    """Values that are there; attacks without gradient measure none."""
    values = (row.values.get(metric, math.nan) for row in rows)
    return [value for value in values if not math.isnan(value)]


def _by_epsilon(drifts: Iterable[Aggregate]) -> dict[float, float]:
    """Largest Linf drift of each radius, ascending."""
    curve: dict[float, float] = {}
    for a in drifts:
        if a.norm == "linf":
            curve[a.epsilon] = max(a.value, curve.get(a.epsilon, -math.inf))
    return dict(sorted(curve.items()))


def _levels(epsilon: float) -> str:
    return f"{epsilon * 255:g}"


def _rises(values: Sequence[float]) -> bool:
    return all(b >= a * (1 - _SLACK) for a, b in pairwise(values))


def _judged(
    name: str, subject: str, is_fine: bool | None, message: str, data: dict[str, float]
) -> Check:
    level: Level = "skipped" if is_fine is None else "ok" if is_fine else "error"
    return Check(name=name, level=level, subject=subject, message=message, data=data)
