"""How large everything is, and what attacks want."""

import hashlib
import json
from dataclasses import dataclass, field

from loricate.attacks.pgd import PGD
from loricate.attacks.poison import Poison
from loricate.basics.spec import to_table
from loricate.core.family import EditSettings
from loricate.core.objective import Objective
from loricate.core.surrogate import FineTuneSettings, Readout
from loricate.defenses._training import Schedule
from loricate.defenses.gated_lora import GatedLora
from loricate.evaluation.fine_tuning import Trial
from loricate.objectives.denoising_loss import DenoisingLoss
from loricate.objectives.directed_noise import DirectedNoise
from loricate.objectives.gate_evasion import GateEvasion


@dataclass(frozen=True)
class Plan:
    """Sizes of everything.

    Args:
        concepts: Captions of held-out concepts, both styles of which are shipped.
        seeds: Seeds of fine-tunes, attacks and gated trainings.
        epsilon: Radius of the pictures' ball in gray levels.
        trial: The victim's fine-tuning and how it is judged.
        surrogate: The attacker's.
        poison: The attack.
        draws: Timesteps and noises the attack's gradient is averaged over.
        gate: The defense.
        calibration: Pictures a gate is trained on.
        rank_plain: Rank of the plain adapter of about as many parameters.
    """

    concepts: tuple[str, ...] = ("tiger face", "honeybee", "crown")
    seeds: tuple[int, ...] = (0, 1, 2)
    epsilon: int = 16
    trial: Trial = field(
        default_factory=lambda: Trial(
            settings=FineTuneSettings(steps=30, learning_rate=3e-3, batch_size=8),
            sampling=EditSettings(num_inference_steps=8, guidance=2.0),
        )
    )
    surrogate: FineTuneSettings = field(
        default_factory=lambda: FineTuneSettings(steps=8, learning_rate=3e-3, batch_size=8)
    )
    poison: Poison = field(
        default_factory=lambda: Poison(rounds=3, inner=PGD(steps=7, random_start=False))
    )
    draws: int = 2
    gate: GatedLora = field(
        default_factory=lambda: GatedLora(
            schedule=Schedule(steps=100, batch_size=8, learning_rate=1e-2)
        )
    )
    calibration: int = 24
    rank_plain: int = 7

    @property
    def facts(self) -> dict[str, object]:
        """All that decides what a fine-tune comes to, as a table."""
        facts = {k: v for k, v in vars(self).items() if k not in ("trial", "concepts", "seeds")}
        return {k: _table(v) for k, v in (facts | dict(vars(self.trial))).items()}

    @property
    def key(self) -> str:
        """Digest of the facts, which names the cache."""
        words = json.dumps(self.facts, sort_keys=True)
        return hashlib.sha256(words.encode()).hexdigest()[:12]


QUICK = Plan(
    concepts=("tiger face",),
    seeds=(0, 1),
    trial=Trial(
        settings=FineTuneSettings(steps=6, learning_rate=3e-3, batch_size=4),
        sampling=EditSettings(num_inference_steps=3, guidance=2.0),
        n_generated=2,
        n_draws=2,
    ),
    surrogate=FineTuneSettings(steps=2, learning_rate=3e-3, batch_size=4),
    poison=Poison(rounds=2, inner=PGD(steps=2, random_start=False)),
    draws=1,
    gate=GatedLora(schedule=Schedule(steps=4, batch_size=4, learning_rate=3e-3)),
    calibration=4,
)


@dataclass(frozen=True)
class Aim:
    """What an attack on pictures wants.

    Args:
        objective: What it raises.
        readout: What the surrogate has to show for that.
        is_adaptive: Whether it looks through the defended model, not the undefended one.
    """

    objective: Objective
    readout: Readout = "noise"
    is_adaptive: bool = False


AIMS = {
    "ace": Aim(DirectedNoise()),
    "ace_plus": Aim(DirectedNoise(latent_weight=1.0)),
    "aspl": Aim(DenoisingLoss(), readout="residual"),
    "reoptimized": Aim(GateEvasion(gate_weight=0.0), readout="gated", is_adaptive=True),
    "adaptive": Aim(GateEvasion(), readout="gated", is_adaptive=True),
}


def _table(value: object) -> object:
    if hasattr(value, "registry_kind") or hasattr(value, "steps"):
        return to_table(value)  # type: ignore[arg-type]
    return value if isinstance(value, int | float | str) else repr(value)
