"""Plans and trainings that commands start from."""

from dataclasses import replace
from typing import Literal

from loricate.attacks.fgsm import FGSM
from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.quantities import Quantity, parse_pixel_length
from loricate.core.attack import Attack
from loricate.core.objective import Objective
from loricate.defenses._training import Schedule
from loricate.defenses.adversarial_lora import AdversarialLora
from loricate.evaluation.battery import battery_plan
from loricate.evaluation.plan import Plan, Trial
from loricate.objectives.edit_shift import EditShift
from loricate.objectives.latent_shift import LatentShift
from loricate.objectives.latent_target import LatentTarget
from loricate.objectives.reconstruction import Reconstruction

__all__ = [
    "CAUTIOUS_RATE",
    "EPSILON",
    "QUICK_STEPS",
    "STEPS",
    "Size",
    "default_plan",
    "default_spec",
]

EPSILON = Quantity(16 / 255, "16/255")
"""Radius of the verdict: where the embedded model breaks; the commonest of the literature."""

STEPS = 1000
QUICK_STEPS = 30

LEARNING_RATE = 1e-2
"""Peak for the autoencoder of the embedded model, whose layers are small and normalized."""

CAUTIOUS_RATE = 3e-3
"""Peak for encoders nobody tuned it for."""

Size = Literal["quick", "standard", "full"]

_SWEEP = ("2/255", "4/255", "8/255", "16/255")
_PAIR = ("base", "hardened")


def default_spec(
    *,
    epsilon: float | str,
    steps: int,
    max_drift: float = 0.09,
    learning_rate: float = LEARNING_RATE,
) -> AdversarialLora:
    """The training that held best at its clean cost; see the table in the docs."""
    return AdversarialLora(
        inner=FGSM(),
        epsilon=epsilon,  # type: ignore[arg-type]
        max_drift=max_drift,
        schedule=Schedule(steps=steps, learning_rate=learning_rate),
    )


def default_plan(epsilon: float, size: Size) -> Plan:
    """Attacks of an evaluation, by how long they may take.

    ``full`` is the protocol: PGD-100 with 5 restarts on every objective for every subject.
    ``standard`` has fewer steps and restarts, spares the controls the costly attacks and sweeps the
    radius with one objective, so that two cores finish in minutes;
    ``quick`` is for a first look and marked so in the record.

    Args:
        epsilon: Radius of the verdict.
        size: How thorough.
    """
    return {"quick": _quick, "standard": _standard, "full": _full}[size](epsilon)


def _quick(epsilon: float) -> Plan:
    trials = (
        _trial(RandomNoise(), LatentShift(), epsilon),
        _trial(PGD(steps=10), LatentShift(), epsilon),
        _trial(PGD(steps=4), EditShift(), epsilon, subjects=_PAIR, n_images=8),
    )
    battery = battery_plan(epsilon, "quick")
    return Plan(trials=trials, epsilon=epsilon, n_images=16, batch_size=16, battery=battery)


def _standard(epsilon: float) -> Plan:
    others = tuple(e for e in _sweep(epsilon) if abs(e - epsilon) > 1e-6)
    trials = (
        Trial(attack=RandomNoise(), objective=LatentShift(), epsilons=_sweep(epsilon)),
        _trial(PGD(steps=50, n_restarts=2), LatentShift(), epsilon),
        _trial(PGD(steps=50), LatentTarget(), epsilon),
        Trial(attack=PGD(steps=50), objective=LatentShift(), epsilons=others, subjects=_PAIR),
        _trial(PGD(steps=25), Reconstruction(), epsilon, subjects=_PAIR),
        _trial(PGD(steps=12), EditShift(), epsilon, subjects=_PAIR),
    )
    # Half of what a survey takes: a run has a quarter of an hour for everything.
    battery = replace(battery_plan(epsilon), n_images=8)
    return Plan(trials=trials, epsilon=epsilon, n_images=100, battery=battery)


def _full(epsilon: float) -> Plan:
    strong = PGD(steps=100, n_restarts=5)
    objectives: tuple[Objective, ...] = (LatentShift(), LatentTarget(), Reconstruction())
    trials = (
        Trial(attack=RandomNoise(), objective=LatentShift(), epsilons=_sweep(epsilon)),
        *(Trial(attack=strong, objective=o, epsilons=_sweep(epsilon)) for o in objectives),
        Trial(attack=strong, objective=EditShift(), epsilons=_sweep(epsilon), eot_samples=4),
    )
    battery = battery_plan(epsilon, "full")
    return Plan(trials=trials, epsilon=epsilon, n_images=200, battery=battery)


def _trial(
    attack: Attack,
    objective: Objective,
    epsilon: float,
    *,
    subjects: tuple[str, ...] = (),
    eot_samples: int = 1,
    n_images: int | None = None,
) -> Trial:
    return Trial(
        attack=attack,
        objective=objective,
        epsilons=(epsilon,),
        subjects=subjects,
        eot_samples=eot_samples,
        n_images=n_images,
    )


def _sweep(epsilon: float) -> tuple[float, ...]:
    """The usual radii, with that of the verdict among them."""
    usual = [parse_pixel_length(text) for text in _SWEEP]
    return tuple(sorted([*(e for e in usual if abs(e - epsilon) > 1e-6), epsilon]))
