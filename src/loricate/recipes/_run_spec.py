"""What every run that ends in a record is told."""

from dataclasses import dataclass
from pathlib import Path

from loricate.basics.spec import Natural, Spec
from loricate.core.defense import InputDefense
from loricate.evaluation.plan import Plan

__all__ = ["RunSpec"]


@dataclass(frozen=True, kw_only=True)
class RunSpec(Spec):
    """The model, the pictures and the attacks of a run.

    Args:
        model: An embedded model's name, a diffusers folder, a ``.safetensors`` file or a hub id.
        defenses: Preprocessing deployed in front of the hardened encoder.
        plan: How everything is attacked.
        images: Folder of pictures; ``None`` takes those that come with the model.
        judge: Folder of a CLIP-like judge; ``None`` takes the model's, or else its base encoder.
        seed: Root of every draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        quick: Marks a run too small to quote.
    """

    model: str = "emoji-sd"
    defenses: tuple[InputDefense, ...] = ()
    plan: Plan
    images: Path | None = None
    judge: Path | None = None
    seed: Natural = 0
    device: str = "auto"
    quick: bool = False
