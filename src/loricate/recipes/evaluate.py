"""Attack a model, with or without an adapter, and write what was found."""

import copy
from dataclasses import dataclass
from pathlib import Path

from loricate.adapters.formats.peft import PEFT
from loricate.basics.spec import Natural, PixelLength, Spec, to_toml
from loricate.core.defense import InputDefense
from loricate.core.family import Family
from loricate.core.shapes import Images
from loricate.core.training import Observer, silent
from loricate.evaluation.plan import Plan
from loricate.evaluation.subjects import Subject
from loricate.integrity.digest import digest
from loricate.recipes._artifacts import verify
from loricate.recipes._clock import Clock
from loricate.recipes._data import held_out_pictures
from loricate.recipes._defaults import EPSILON
from loricate.recipes._evidence import gather
from loricate.recipes._folder import claim
from loricate.recipes._models import judge_of, load_family, model_path
from loricate.recipes._record import Run, write_run
from loricate.records.schema import Integrity, RunRecord
from loricate.surfaces.attach import Attached, load, merged_copy

__all__ = ["EvaluateSpec", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(Spec):
    """Everything an evaluation depends on; written beside its results.

    Args:
        model: An embedded model's name, a diffusers folder, a ``.safetensors`` file or a hub id.
        adapter: PEFT folder of an adapter for the autoencoder; ``None`` attacks the base alone.
        trained_epsilon: Radius the adapter was trained against, for the verdict.
        defenses: Preprocessing deployed in front of the hardened encoder.
        plan: How everything is attacked.
        images: Folder of pictures; ``None`` takes those that come with the model.
        judge: Folder of a CLIP-like judge; ``None`` takes the model's, or else its base encoder.
        seed: Root of every draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        quick: Marks a run too small to quote.
    """

    model: str = "emoji-sd"
    adapter: Path | None = None
    trained_epsilon: PixelLength = EPSILON
    defenses: tuple[InputDefense, ...] = ()
    plan: Plan
    images: Path | None = None
    judge: Path | None = None
    seed: Natural = 0
    device: str = "auto"
    quick: bool = False


def evaluate(
    spec: EvaluateSpec, out: Path, *, observe: Observer = silent, resume: bool = False
) -> RunRecord:
    """Attack a model and write record, rows, pictures, config and card to a folder.

    Args:
        spec: Model, adapter and plan.
        out: Run folder.
        observe: Told about progress.
        resume: Continue the run that ``out`` holds.

    Returns:
        The record; without an adapter its verdict is inconclusive.

    Raises:
        ConfigError: ``out`` holds another run, or there are no pictures.
        PrerequisiteError: The model cannot be loaded.
    """
    path, clock = model_path(spec.model), Clock()
    base = load_family(path, spec.device)
    pictures = held_out_pictures(path, spec.images, base.image_size).on(base.device)
    adapter = None if spec.adapter is None else PEFT(component="vae").read(spec.adapter)
    claim(out, to_toml(spec), resume=resume)
    family = base.with_vae(copy.deepcopy(base.vae))
    attached = None if adapter is None else load(family.vae, adapter, "vae")
    subjects = [Subject("base", base)]
    if attached or spec.defenses:
        subjects.append(Subject("hardened", family, spec.defenses))
    judge = judge_of(path, spec.judge, base)
    with clock("evaluate"):
        evidence = gather(
            subjects, judge, pictures, spec.plan, out, seed=spec.seed, observe=observe
        )
    run = Run(
        kind="evaluate",
        spec=spec,
        model=spec.model,
        plan=spec.plan,
        evidence=evidence,
        seconds=clock.seconds,
        base=base,
        trained_epsilon=float(spec.trained_epsilon),
        integrity=_integrity(base, family, attached, pictures.images) if attached else None,
        quick=spec.quick,
    )
    return write_run(out, run)


def _integrity(base: Family, family: Family, attached: Attached, images: Images) -> Integrity:
    before = digest(base.vae.state_dict())
    return verify(family, attached, merged_copy(attached), before, images)
