"""Checks that compare attacks: no weaker attacker may do more."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Final

from loricate.attacks.fgsm import FGSM
from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.registry import key_of
from loricate.core.attack import Attack, AttackResult
from loricate.core.balls import L2, Linf
from loricate.core.shapes import PerSample
from loricate.evaluation._bench import Bench, levelled
from loricate.records.schema import Check

__all__ = ["Duel"]

_SLACK: Final = 0.02  # of a drift: what restarts and rounding may cost a stronger attack
_FLAT: Final = 0.05  # a curve that gains more at its end has not ended
_KEPT: Final = 0.5
_TINY: Final = 1e-12


@dataclass(frozen=True)
class Duel:
    """An attack on a hardened model, beside weaker attackers and the base.

    Args:
        base: The undefended model.
        hardened: The defended one.
        attack: The attack that evaluates.
        epsilon: Radius of its Linf ball.
        unseen_epsilon: A radius that nothing was trained with.
        eot_samples: Draws it averages where something deployed is random.
    """

    base: Bench
    hardened: Bench
    attack: PGD
    epsilon: float
    unseen_epsilon: float
    eot_samples: int

    @cached_property
    def white_box(self) -> AttackResult:
        """The attack on the hardened model."""
        return self._run(self.hardened, self.attack)

    @cached_property
    def drift(self) -> PerSample:
        """Latent drift it causes."""
        return self.hardened.drift(self.white_box.adversarial)

    def prepare(self) -> None:
        """Run what several checks look at, so that they can be made in several threads."""
        _ = self.drift

    def order(self) -> Check:
        """White box at least as strong as transfer, transfer as noise."""
        transferred = self.white_box if self._is_undefended else self._run(self.base, self.attack)
        own, noise = self._own, self._moved(RandomNoise())
        transfer = float(self.hardened.drift(transferred.adversarial).mean())
        message = (
            f"drift {own:.3f} in the white box, {transfer:.3f} by transfer, {noise:.3f} by noise"
        )
        data = {"white_box": own, "transfer": transfer, "noise": noise}
        is_wrong = _falls(max(transfer, noise), own)
        is_odd = _falls(noise, transfer)
        return self._check("knowledge_order", message, data, is_wrong=is_wrong, is_odd=is_odd)

    def gradient_free(self, attacks: Sequence[Attack]) -> Check:
        """No attack without gradients beats the one with them."""
        if not attacks:
            return self._skipped("gradient_free_beats_gradient", "no such attack was planned")
        found = {key_of(type(attack)): self._moved(attack) for attack in attacks}
        message = f"drift {self._own:.3f} with gradients; without, {_listed(found)}"
        is_wrong = _falls(max(found.values()), self._own)
        data = {"gradient": self._own} | found
        return self._check("gradient_free_beats_gradient", message, data, is_wrong=is_wrong)

    def single_step(self) -> Check:
        """Many steps at least as strong as one."""
        single = self._moved(FGSM())
        message = f"drift {single:.3f} by one step, {self._own:.3f} by {self.attack.steps}"
        data = {"single": single, "iterative": self._own}
        is_wrong = _falls(single, self._own)
        return self._check("single_step_beats_iterative", message, data, is_wrong=is_wrong)

    def unbounded(self) -> Check:
        """Without a budget, every sample goes at least as far as another picture lies."""
        result = self._run(self.hardened, self.attack, Linf(epsilon=1.0))
        drift = self.hardened.drift(result.adversarial)
        # Any picture is within reach of a radius of 1.
        other = self.hardened.drift(self.hardened.pictures.images.roll(1, 0))
        share = float((drift >= other).double().mean())
        message = f"without a budget {share:.1%} of the samples move as far as another picture lies"
        data = {"broken": share, "drift": float(drift.mean()), "other": float(other.mean())}
        return self._check("survives_any_budget", message, data, is_wrong=share < 1.0)

    def step_curve(self, steps: Sequence[int]) -> Check:
        """More steps never weaker, and nothing left to gain at the end."""
        curve = {n: self._moved(replace(self.attack, steps=n)) for n in sorted(steps)}
        return self._curve("step_curve", "steps", curve)

    def draw_curve(self, draws: Sequence[int]) -> Check:
        """More averaged draws never weaker, and nothing left to gain at the end."""
        if not self.hardened.is_random:
            return self._skipped("eot_curve", "nothing deployed is random")
        ball = Linf(epsilon=self.epsilon)
        curve = {
            n: float(
                self.hardened.drift(
                    self.hardened.attacked(self.attack, ball, eot_samples=n).adversarial
                ).mean()
            )
            for n in sorted(draws)
        }
        return self._curve("eot_curve", "averaged draws", curve)

    def resubmission(self, submissions: int) -> Check:
        """How much an attacker gains who submits the same picture until it works."""
        if not self.hardened.is_random:
            return self._skipped("resubmission", "nothing deployed is random")
        by_draw = self.hardened.drifts(self.white_box.adversarial, submissions)
        once, worst = float(by_draw.mean()), float(by_draw.amax(0).mean())
        message = f"drift {once:.3f} for one submission, {worst:.3f} for the worst of {submissions}"
        data = {"once": once, "worst": worst, "submissions": float(submissions)}
        return self._check("resubmission", message, data, is_odd=worst > once * (1 + _FLAT))

    def seeds(self, runs: int) -> Check:
        """Independent runs of the attack end alike."""
        ball, draws = Linf(epsilon=self.epsilon), self._draws(self.hardened)
        others = (
            self.hardened.attacked(self.attack, ball, eot_samples=draws, run=run).adversarial
            for run in range(1, runs)
        )
        drifts = [self._own, *(float(self.hardened.drift(images).mean()) for images in others)]
        spread = (max(drifts) - min(drifts)) / max(self._own, _TINY)
        message = f"{runs} runs of the attack with other seeds differ by {spread:.1%} of the drift"
        data = {"spread": spread} | {f"run_{i}": drift for i, drift in enumerate(drifts)}
        return self._check("seed_dependence", message, data, is_odd=spread > _FLAT)

    def sweep(self) -> tuple[Check, Check]:
        """The two checks that share the attacks in every ball."""
        return self.radius_curve(), self.unseen_conditions()

    def radius_curve(self) -> Check:
        """A larger budget never weaker."""
        curve = {label: self._sweep[label][1] for label in map(_label, self._radii)}
        is_wrong = any(_falls(a, b) for a, b in pairwise(curve.values()))
        data = {f"drift_{label}": moved for label, moved in curve.items()}
        message = f"drift by radius: {_listed(curve)}"
        return self._check("radius_curve", message, data, is_wrong=is_wrong)

    def unseen_conditions(self) -> Check:
        """Whether the gain over the base holds at a radius and a norm never trained on."""
        if self._is_undefended:
            return self._skipped("unseen_conditions", "there is no defense to compare with")
        gains = {label: base / max(own, _TINY) for label, (base, own) in self._sweep.items()}
        seen = gains[_label(Linf(epsilon=self.epsilon))]
        worst = min(gains[_label(ball)] for ball in self._unseen)
        is_odd = worst - 1 < _KEPT * max(seen - 1, 0.0)
        message = f"drift of the base over that of the hardened model: {_listed(gains)}"
        data = {"seen": seen, "worst_unseen": worst} | {f"gain_{k}": v for k, v in gains.items()}
        return self._check("unseen_conditions", message, data, is_odd=is_odd)

    @property
    def _radii(self) -> list[Linf]:
        radii = (self.epsilon / 4, self.epsilon / 2, self.epsilon, self.unseen_epsilon)
        return [Linf(epsilon=radius) for radius in sorted({*radii})]

    @property
    def _unseen(self) -> tuple[Linf | L2, ...]:
        """The other radius, and a Euclidean ball half as far as the corners of the seen one."""
        corner = self.epsilon * math.sqrt(self.base.pictures.images[0].numel())
        return Linf(epsilon=self.unseen_epsilon), L2(epsilon=corner / 2)

    @cached_property
    def _sweep(self) -> Mapping[str, tuple[float, float]]:
        """Drift of base and hardened model in every ball."""
        own = {
            _label(ball): (ball, self._moved(self.attack, ball=ball))
            for ball in (*self._radii, *self._unseen)
        }
        return {
            label: (self._base_moved(ball, moved), moved) for label, (ball, moved) in own.items()
        }

    def _base_moved(self, ball: Linf | L2, own: float) -> float:
        return own if self._is_undefended else self._moved(self.attack, self.base, ball)

    @property
    def _is_undefended(self) -> bool:
        return self.base.subject == self.hardened.subject

    @property
    def _own(self) -> float:
        return float(self.drift.mean())

    def _moved(
        self, attack: Attack, bench: Bench | None = None, ball: Linf | L2 | None = None
    ) -> float:
        """Mean drift an attack causes; on the hardened model, at the usual radius by default."""
        bench = bench or self.hardened
        return float(bench.drift(self._run(bench, attack, ball).adversarial).mean())

    def _run(self, bench: Bench, attack: Attack, ball: Linf | L2 | None = None) -> AttackResult:
        ball = ball or Linf(epsilon=self.epsilon)
        return bench.attacked(attack, ball, eot_samples=self._draws(bench))

    def _draws(self, bench: Bench) -> int:
        return self.eot_samples if bench.is_random else 1

    def _curve(self, name: str, unit: str, curve: Mapping[int, float]) -> Check:
        *_, before, last = [math.nan, *curve.values()]
        is_wrong = any(_falls(a, b) for a, b in pairwise(curve.values()))
        data = {f"{unit.split()[-1]}_{n}": drift for n, drift in curve.items()}
        message = f"drift by {unit}: {_listed({str(n): drift for n, drift in curve.items()})}"
        is_odd = last > before * (1 + _FLAT)
        return self._check(name, message, data, is_wrong=is_wrong, is_odd=is_odd)

    def _check(
        self,
        name: str,
        message: str,
        data: dict[str, float],
        *,
        is_wrong: bool = False,
        is_odd: bool = False,
    ) -> Check:
        subject = self.hardened.subject.name
        return levelled(name, subject, message, data, is_wrong=is_wrong, is_odd=is_odd)

    def _skipped(self, name: str, why: str) -> Check:
        return Check(name=name, level="skipped", subject=self.hardened.subject.name, message=why)


def _falls(weaker: float, stronger: float) -> bool:
    """Whether the attacker who should be stronger does less, beyond the slack."""
    return stronger < weaker * (1 - _SLACK)


def _label(ball: Linf | L2) -> str:
    radius = float(ball.epsilon)
    return f"{radius * 255:g}/255" if isinstance(ball, Linf) else f"l2 {radius:.2f}"


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.3f} {_where(key)}" for key, value in values.items())


def _where(key: str) -> str:
    return f"at {key}" if key[0].isdigit() or key.startswith("l2") else f"by {key}"
