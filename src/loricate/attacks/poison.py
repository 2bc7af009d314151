"""Attack on fine-tuning data, seen through a surrogate that is fine-tuned on it."""

from dataclasses import dataclass, field
from typing import final

from loricate.attacks.pgd import PGD
from loricate.basics.spec import Count
from loricate.core.attack import Attack
from loricate.core.problem import Problem
from loricate.core.shapes import Batch

__all__ = ["Poison"]


@final
@dataclass(frozen=True, kw_only=True)
class Poison(Attack):
    """Let a surrogate learn from the pictures, raise its objective, and begin again.

    With ``denoising_loss`` this is ASPL, with ``directed_noise`` ACE and ACE+. The pictures of a
    batch are one training set, so what becomes of one depends on the others. Surfaces that do
    not learn are refused.

    Args:
        rounds: How often surrogate and pictures take turns; the surrogate is first.
        inner: Ascent of a round. It starts where the last one ended if it has no random start.

    Source: ASPL, Le et al. 2023 [antidreambooth2023], section 4.3; ACE, Zheng et al. 2023
    [ace2023]. Deviates: one surrogate is kept over the rounds, and it sees the clean pictures in
    the first round, the attacked ones later; the best iterate of the last round is returned.
    """

    rounds: Count = 5
    inner: Attack = field(default_factory=lambda: PGD(steps=30, random_start=False))

    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Best point of the last round."""
        problem.adapt(x)
        z = self.inner.perturb(problem.start(0), problem)
        for _ in range(self.rounds - 1):
            problem.adapt(z)
            z = self.inner.perturb(z, problem)
        return z
