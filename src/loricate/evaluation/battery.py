"""The masking battery: does the attack that evaluates a model deserve to be believed?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Self

from loricate.attacks.pgd import PGD
from loricate.attacks.spsa import SPSA
from loricate.attacks.square import Square
from loricate.basics.spec import Count, PixelLength, Spec
from loricate.core.attack import Attack
from loricate.core.training import Observer, silent
from loricate.evaluation._active_test import active_test
from loricate.evaluation._bench import Bench
from loricate.evaluation._gradient_checks import (
    gradient_matches_differences,
    gradient_promises_gain,
    line_is_smooth,
)
from loricate.evaluation._strength_checks import Duel
from loricate.evaluation.subjects import Pictures, Subject
from loricate.evaluation.workers import Workers
from loricate.records.schema import Check

__all__ = ["BatteryPlan", "battery", "battery_plan"]

Size = Literal["quick", "standard", "full"]


@dataclass(frozen=True, kw_only=True)
class BatteryPlan(Spec):
    """How thoroughly an attack on the encoder is checked.

    Args:
        attack: The attack that evaluates.
        epsilon: Radius of its Linf ball.
        unseen_epsilon: A radius that nothing was trained with.
        gradient_free: Attacks without gradients to compare with.
        steps: Lengths of the step curve.
        draws: Averaged draws of the curve on random surfaces.
        eot_samples: Draws averaged by every other attack on random surfaces.
        scoring_draws: Draws behind a score on random surfaces.
        submissions: How often the same picture is handed in.
        runs: Independent runs of the attack.
        n_images: Pictures attacked.
    """

    attack: PGD
    epsilon: PixelLength
    unseen_epsilon: PixelLength
    gradient_free: tuple[Attack, ...]
    steps: tuple[Count, ...] = (1, 10, 50, 100, 200)
    draws: tuple[Count, ...] = (1, 5, 20, 50)
    eot_samples: Count = 5
    scoring_draws: Count = 8
    submissions: Count = 10
    runs: Count = 3
    n_images: Count = 16

    def at(self, epsilon: float) -> Self:
        """The same checks at another radius of the verdict.

        Args:
            epsilon: In pixel units.
        """
        unseen = min(float(self.unseen_epsilon) * epsilon / float(self.epsilon), 1.0)
        return replace(self, epsilon=epsilon, unseen_epsilon=unseen)


def _beyond(epsilon: float) -> float:
    """A radius that training for ``epsilon`` does not see."""
    return min(1.5 * epsilon, 1.0)


def battery_plan(epsilon: float, size: Size = "standard") -> BatteryPlan:
    """The battery by how long it may take.

    Args:
        epsilon: Radius of the verdict in pixel units.
        size: ``full`` is the protocol; ``quick`` is for a first look.

    Returns:
        The plan.
    """
    unseen = _beyond(epsilon)
    if size == "quick":
        return BatteryPlan(
            attack=PGD(steps=10),
            epsilon=epsilon,
            unseen_epsilon=unseen,
            gradient_free=(SPSA(steps=10, n_pairs=8),),
            steps=(1, 5, 10, 20),
            draws=(1, 5),
            eot_samples=2,
            scoring_draws=4,
            runs=2,
            n_images=8,
        )
    is_full = size == "full"
    return BatteryPlan(
        attack=PGD(steps=100, n_restarts=5) if is_full else PGD(steps=50),
        epsilon=epsilon,
        unseen_epsilon=unseen,
        gradient_free=(SPSA(steps=50), Square(queries=5000)) if is_full else (SPSA(), Square()),
        eot_samples=20 if is_full else 5,
        scoring_draws=20 if is_full else 8,
        runs=5 if is_full else 3,
        n_images=64 if is_full else 16,
    )


def battery(
    base: Subject,
    hardened: Subject,
    pictures: Pictures,
    plan: BatteryPlan,
    *,
    seed: int,
    observe: Observer = silent,
) -> tuple[Check, ...]:
    """Items E8a to E8l of the protocol, with its curves over steps, draws, radii and seeds.

    Everything is measured as latent drift on the encoder as deployed, by draws that no attack
    has seen. An undefended model is checked by giving it twice.

    Args:
        base: The undefended model.
        hardened: The defended one, which the checks speak about.
        pictures: Held-out pictures.
        plan: How thoroughly.
        seed: Root seed.
        observe: Told about every check.

    Returns:
        One check an item; what does not apply is ``skipped``.
    """
    pictures = pictures.head(plan.n_images)
    first, second = (
        Bench(subject, pictures, seed, plan.scoring_draws) for subject in (base, hardened)
    )
    duel = Duel(
        base=first,
        hardened=second,
        attack=plan.attack,
        epsilon=float(plan.epsilon),
        unseen_epsilon=float(plan.unseen_epsilon),
        eot_samples=plan.eot_samples,
    )
    items = _items(duel, plan)
    checks: list[Check] = []
    duel.prepare()
    workers = Workers.suited_to(pictures.images)
    for done, found in enumerate(workers.map(lambda item: item(), items), start=1):
        checks += found
        observe("battery", done, len(items), {})
    return tuple(checks)


_Item = Callable[[], Sequence[Check]]


def _items(duel: Duel, plan: BatteryPlan) -> Sequence[_Item]:
    """What can be done side by side once the duel is prepared, the longest first."""
    bench, epsilon = duel.hardened, duel.epsilon
    single: Sequence[Callable[[], Check]] = (
        duel.order,
        duel.single_step,
        duel.unbounded,
        lambda: active_test(bench, plan.attack, epsilon, plan.eot_samples),
        lambda: gradient_matches_differences(bench, epsilon),
        lambda: gradient_promises_gain(bench, duel.white_box, epsilon),
        lambda: line_is_smooth(bench, duel.white_box.adversarial),
        lambda: duel.resubmission(plan.submissions),
        lambda: duel.seeds(plan.runs),
    )
    long: Sequence[Callable[[], Check]] = (
        lambda: duel.gradient_free(plan.gradient_free),
        lambda: duel.draw_curve(plan.draws),
        lambda: duel.step_curve(plan.steps),
    )
    return [duel.sweep, *(partial(_alone, check) for check in (*long, *single))]


def _alone(check: Callable[[], Check]) -> Sequence[Check]:
    return (check(),)
