"""Attack a model, with or without an adapter, and write what was found."""

import copy
from dataclasses import dataclass
from pathlib import Path

from loricate.adapters.formats.peft import PEFT
from loricate.basics.spec import PixelLength, to_toml
from loricate.core.training import Observer, silent
from loricate.evaluation.subjects import Subject
from loricate.integrity.digest import adapter_digest, digest
from loricate.recipes._artifacts import verify
from loricate.recipes._clock import Clock
from loricate.recipes._data import held_out_pictures
from loricate.recipes._defaults import EPSILON
from loricate.recipes._evidence import gather
from loricate.recipes._folder import claim
from loricate.recipes._inputs import digests_of
from loricate.recipes._models import judge_of, load_family, model_path
from loricate.recipes._record import Run, write_run
from loricate.recipes._run_spec import RunSpec
from loricate.records.schema import RunRecord
from loricate.surfaces.attach import load, merged_copy

__all__ = ["EvaluateSpec", "evaluate"]


@dataclass(frozen=True, kw_only=True)
class EvaluateSpec(RunSpec):
    """Everything an evaluation depends on; written beside its results.

    Args:
        adapter: PEFT folder of an adapter for the autoencoder; ``None`` attacks the base alone.
        trained_epsilon: Radius the adapter was trained against, for the verdict.
    """

    adapter: Path | None = None
    trained_epsilon: PixelLength = EPSILON


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
        ConfigError: ``out`` holds another run or one that began with another model or other
            pictures, or there are no pictures.
        PrerequisiteError: The model cannot be loaded.
    """
    path, clock = model_path(spec.model), Clock()
    base = load_family(path, spec.device)
    pictures = held_out_pictures(path, spec.images, base.image_size).on(base.device)
    adapter = None if spec.adapter is None else PEFT(component="vae").read(spec.adapter)
    inputs = digests_of(base, pictures)
    if adapter is not None:
        inputs["adapter"] = adapter_digest(adapter)
    claim(out, to_toml(spec), resume=resume, inputs=inputs)
    before = digest(base.vae.state_dict())
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
    integrity = None
    if attached is not None:
        integrity = verify(family, attached, merged_copy(attached), before, pictures.images)
    run = Run(
        kind="evaluate",
        spec=spec,
        evidence=evidence,
        seconds=clock.seconds,
        base=base,
        trained_epsilon=float(spec.trained_epsilon),
        integrity=integrity,
    )
    return write_run(out, run)
