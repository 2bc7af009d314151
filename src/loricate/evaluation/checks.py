"""Sanity flags: signs that an attack failed rather than that a defense worked."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from loricate.records.names import NO_ATTACK, RANDOM_NOISE
from loricate.records.schema import Aggregate, Check, SampleRow

__all__ = ["curve_check", "row_checks", "transfer_check"]

Level = Literal["ok", "warning", "error", "skipped"]

_SLACK = 0.02  # of a drift: less than a bootstrap interval of 100 samples resolves
_ROUNDING = 1e-5


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
        _budget(rows, subject),
        _random_at_least_pgd(own, subject),
        _more_epsilon(own, subject),
    ]


def transfer_check(subject: str, transferred: Sequence[float], white_box: Sequence[float]) -> Check:
    """Whether pictures made against the base hurt a subject more than its own attack does.

    Args:
        subject: The attacked model.
        transferred: Latent drift under the base's pictures.
        white_box: Latent drift under pictures made on the subject itself.

    Returns:
        The check.
    """
    data = {"transfer": float(np.mean(transferred)), "white_box": float(np.mean(white_box))}
    return _judged(
        "transfer_beats_white_box",
        subject,
        data["transfer"] <= data["white_box"] * (1 + _SLACK),
        f"latent drift {data['transfer']:.3f} by transfer, {data['white_box']:.3f} in the white box",
        data,
    )


def curve_check(subject: str, drift_by_steps: Mapping[int, float]) -> Check:
    """Whether more gradient steps ever gained less.

    Args:
        subject: The attacked model.
        drift_by_steps: Mean objective drift after so many steps.

    Returns:
        The check.
    """
    ordered = [drift_by_steps[steps] for steps in sorted(drift_by_steps)]
    words = ", ".join(f"{drift_by_steps[s]:.3f} at {s}" for s in sorted(drift_by_steps))
    data = {f"steps_{steps}": value for steps, value in sorted(drift_by_steps.items())}
    message = f"latent drift by steps: {words}"
    return _judged("more_steps_not_stronger", subject, _rises(ordered), message, data)


def _zero_gradient(rows: Sequence[SampleRow], subject: str) -> Check:
    first = [row.values["first_gradient"] for row in rows if "first_gradient" in row.values]
    smallest = min(first, default=float("nan"))
    message = f"smallest mean absolute gradient at a start: {smallest:.3g}"
    return _judged("zero_gradient", subject, smallest > 0.0, message, {"smallest": smallest})


def _stationary_start(rows: Sequence[SampleRow], subject: str) -> Check:
    gains = [row.values["objective"] > row.values["objective_clean"] for row in rows]
    share = float(np.mean(gains)) if gains else float("nan")
    message = f"{share:.1%} of the attacked samples left the value of the clean input"
    return _judged("stationary_start", subject, share >= 0.99, message, {"moved": share})


def _budget(rows: Iterable[SampleRow], subject: str) -> Check:
    excess = [
        row.values["delta_size"] - row.epsilon
        for row in rows
        if row.subject == subject and "delta_size" in row.values
    ]
    worst = max(excess, default=float("nan"))
    message = f"largest perturbation after rounding exceeds its radius by {max(worst, 0.0):.2g}"
    data = {"excess": worst}
    return _judged("budget_after_rounding", subject, worst <= _ROUNDING, message, data)


def _random_at_least_pgd(drifts: Sequence[Aggregate], subject: str) -> Check:
    noise = {a.epsilon: a.value for a in drifts if a.attack == RANDOM_NOISE}
    attack = {a.epsilon: a.value for a in drifts if a.objective == "latent_shift"}
    shared = sorted(noise.keys() & attack.keys())
    ratios = {f"ratio_{e * 255:g}": attack[e] / max(noise[e], 1e-12) for e in shared}
    message = "latent drift by attack over noise: " + ", ".join(
        f"{ratios[f'ratio_{e * 255:g}']:.1f} at {e * 255:g}/255" for e in shared
    )
    is_fine = all(attack[e] > noise[e] for e in shared) if shared else None
    return _judged("random_at_least_pgd", subject, is_fine, message, ratios)


def _more_epsilon(drifts: Sequence[Aggregate], subject: str) -> Check:
    curve = {a.epsilon: a.value for a in drifts if a.objective == "latent_shift"}
    ordered = [curve[epsilon] for epsilon in sorted(curve)]
    data = {f"drift_{e * 255:g}": curve[e] for e in sorted(curve)}
    message = "latent drift by radius: " + ", ".join(
        f"{curve[e]:.3f} at {e * 255:g}/255" for e in sorted(curve)
    )
    is_fine = _rises(ordered) if len(ordered) > 1 else None
    return _judged("more_epsilon_not_stronger", subject, is_fine, message, data)


def _rises(values: Sequence[float]) -> bool:
    return all(b >= a * (1 - _SLACK) for a, b in zip(values, values[1:], strict=False))


def _judged(
    name: str, subject: str, is_fine: bool | None, message: str, data: dict[str, float]
) -> Check:
    level: Level = "skipped" if is_fine is None else "ok" if is_fine else "error"
    return Check(name=name, level=level, subject=subject, message=message, data=data)
