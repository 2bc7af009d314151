"""The harness around every attack: it owns budget, rounding and score."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Final, final

from loricate.basics.errors import BudgetViolation, ShapeError
from loricate.basics.spec import Spec
from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.problem import Problem
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.core.threat import ThreatModel

__all__ = ["Attack", "AttackResult"]

_SLACK: Final = 1e-5  # in domain units: float32 rounding of a projection, far below one gray level


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, judged by the harness.

    Args:
        raw: The attack's own result.
        adversarial: The same, projected, clipped and rounded to 8 bits.
        value: Objective of ``adversarial`` on the attack's draws.
        clean_value: Objective of the input on the same draws.
        calls: Samples the surface was asked for, by the attack and for its score.
        history: Mean value and mean absolute gradient at each gradient call.
        first: Value and mean absolute gradient of each sample at the first gradient call, or
            ``None`` where no gradient was asked for.
    """

    raw: Batch
    adversarial: Batch
    value: PerSample
    clean_value: PerSample
    calls: int
    history: tuple[tuple[float, float], ...]
    first: tuple[PerSample, PerSample] | None = None


@dataclass(frozen=True, kw_only=True)
class Attack(Spec):
    """Raises an objective inside a budget; subclasses write ``perturb`` alone."""

    registry_kind = "attacks"

    @final
    def __call__(
        self,
        surface: Surface,
        objective: Objective,
        threat: ThreatModel,
        x: Batch,
        *,
        seeds: Seeds,
    ) -> AttackResult:
        """Attack a batch and score what survives clipping and 8-bit rounding.

        Args:
            surface: Everything deployed, as one map.
            objective: What to maximize.
            threat: Budget and averaging.
            x: Clean inputs, in the surface's domain.
            seeds: One a sample; equal seeds give equal results in any batch.

        Returns:
            The adversarial batch, never worse than the input on the objective.

        Raises:
            ShapeError: Not one seed a sample, or not a float batch.
            NumericalError: NaN in the input or the objective, or pixels outside the box.
            BudgetViolation: ``perturb`` left the ball or the box by more than rounding.
        """
        surface.domain.require(x)
        if len(seeds) != len(x):
            raise ShapeError(f"{len(x)} seeds, one a sample", len(seeds), where="seeds")
        problem = Problem(surface, objective, threat, x.detach().clone(), seeds)
        raw = self.perturb(problem.center, problem).detach()
        _require_at_most(0.0, (problem.center - x).flatten(1).abs().amax(1), "change of the input")
        _require_within(raw, problem)
        adversarial, value = _saved(raw, problem)
        return AttackResult(
            raw=raw,
            adversarial=adversarial,
            value=value,
            clean_value=problem.clean_value,
            calls=problem.calls,
            history=tuple(problem.history),
            first=problem.first,
        )

    @abstractmethod
    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Best feasible point found for each sample.

        Args:
            x: Clean inputs.
            problem: Value, gradient, ball and starts.

        Returns:
            A batch of the same shape, dtype and device.
        """


def _saved(raw: Batch, problem: Problem) -> tuple[Batch, PerSample]:
    """What survives saving, with its value; the input where rounding undid a tiny gain."""
    best = problem.track(problem.center)
    saved = problem.domain.rounded(problem.feasible(raw), problem.center, problem.ball)
    best.offer(saved, problem.value(saved))
    return best.x, best.value


def _require_within(raw: Batch, problem: Problem) -> None:
    ball, center, domain = problem.ball, problem.center, problem.domain
    if (raw.shape, raw.dtype) != (center.shape, center.dtype):
        expected = f"{center.dtype} of shape {tuple(center.shape)} from the attack"
        raise ShapeError(expected, (str(raw.dtype), tuple(raw.shape)))
    outside = (raw - domain.clip(raw)).flatten(1).abs().amax(1)
    _require_at_most(ball.epsilon, ball.size(raw - center), f"{ball.norm} ball")
    _require_at_most(0.0, outside, f"distance from the box of {domain.kind}")


def _require_at_most(limit: float, size: PerSample, budget: str) -> None:
    within = size <= limit * (1 + _SLACK) + _SLACK
    # Not the other way around: NaN is within nothing.
    if not bool(within.all()):
        sample = int((~within).int().argmax())
        got = float(size[sample])
        raise BudgetViolation(budget, allowed=float(limit), got=got, sample=sample)
