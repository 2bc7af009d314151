"""Harden the image input of a Stable Diffusion, and prove what was gained."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path


from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.spec import Natural, Spec, read_spec, to_toml
from loricate.core.defense import InputDefense
from loricate.core.family import Family
from loricate.core.shapes import Images
from loricate.core.training import Observer, TrainingLog, silent
from loricate.defenses._target import Target, Trained
from loricate.defenses.adversarial_lora import AdversarialLora
from loricate.defenses.plain_lora import PlainLora
from loricate.evaluation.plan import Plan
from loricate.evaluation.subjects import Subject
from loricate.integrity.digest import digest
from loricate.recipes._artifacts import WEIGHTS_CHECKED, write_artifacts
from loricate.recipes._data import calibration_images, held_out_pictures
from loricate.recipes._defaults import (
    EPSILON,
    QUICK_STEPS,
    STEPS,
    Size,
    default_plan,
    default_spec,
)
from loricate.recipes._evidence import gather
from loricate.recipes._folder import claim
from loricate.recipes._matching import truncation_of_cost
from loricate.recipes._models import judge_of, load_family, model_path
from loricate.recipes._record import Run, write_run
from loricate.records.names import CONTROLS
from loricate.records.schema import RunRecord
from loricate.surfaces.attach import pristine_copy

__all__ = ["HardenSpec", "harden", "resolve"]

_CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class HardenSpec(Spec):
    """Everything a run depends on; written beside its results.

    Args:
        model: An embedded model's name, a diffusers folder, a ``.safetensors`` file or a hub id.
        defense: How the adapter is trained.
        defenses: Preprocessing deployed in front of the hardened encoder.
        plan: How everything is attacked.
        controls: Which controls stand beside the adapter.
        images: Folder of pictures; ``None`` takes those that come with the model.
        judge: Folder of a CLIP-like judge; ``None`` takes the model's, or else its base encoder.
        seed: Root of every draw.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        quick: Marks a run too small to quote.
    """

    model: str = "emoji-sd"
    defense: AdversarialLora
    defenses: tuple[InputDefense, ...] = ()
    plan: Plan
    controls: tuple[str, ...] = ("control_plain", "control_noise", "control_truncation")
    images: Path | None = None
    judge: Path | None = None
    seed: Natural = 0
    device: str = "auto"
    quick: bool = False


def resolve(
    model: str | None = None,
    *,
    config: Path | None = None,
    epsilon: float | None = None,
    rank_budget: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    images: Path | None = None,
    quick: bool = False,
    full: bool = False,
) -> HardenSpec:
    """Settings of a run: the file's or the defaults, with flags on top.

    Args:
        model: What to harden.
        config: TOML file as a run writes it.
        epsilon: Radius to withstand and to judge at.
        rank_budget: Entries of the adapter over entries of the weights it updates.
        steps: Training steps.
        seed: Root of every draw.
        device: Where to run.
        images: Folder of pictures.
        quick: Shorten everything, and mark it.
        full: The whole protocol.

    Returns:
        The settings.

    Raises:
        ConfigError: A value does not fit.
    """
    spec = read_spec(HardenSpec, config) if config else _defaults(epsilon, quick=quick, full=full)
    defense = spec.defense
    schedule = defense.schedule if steps is None else replace(defense.schedule, steps=steps)
    defense = replace(
        defense,
        schedule=schedule,
        epsilon=defense.epsilon if epsilon is None else epsilon,
        rank_budget=defense.rank_budget if rank_budget is None else rank_budget,
    )
    return replace(
        spec,
        defense=defense,
        model=model or spec.model,
        seed=spec.seed if seed is None else seed,
        device=device or spec.device,
        images=images or spec.images,
    )


def _defaults(epsilon: float | None, *, quick: bool, full: bool) -> HardenSpec:
    radius = EPSILON if epsilon is None else epsilon
    size: Size = "quick" if quick else "full" if full else "standard"
    return HardenSpec(
        defense=default_spec(epsilon=radius, steps=QUICK_STEPS if quick else STEPS),
        plan=default_plan(radius, size),
        controls=("control_plain",) if quick else CONTROLS if full else CONTROLS[:3],
        quick=quick,
    )


def harden(
    spec: HardenSpec, out: Path, *, observe: Observer = silent, resume: bool = False
) -> RunRecord:
    """Train an adapter, attack base and hardened model alike, and write everything to a folder.

    Args:
        spec: Model, defense and plan.
        out: Run folder: adapter, merged autoencoder, record, rows, pictures, config, card.
        observe: Told about every step.
        resume: Continue the run that ``out`` holds.

    Returns:
        The record, verdict included.

    Raises:
        ConfigError: ``out`` holds another run, or there are no pictures.
        PrerequisiteError: The model cannot be loaded.
    """
    claim(out, to_toml(spec), resume=resume)
    clock = _Clock()
    path = model_path(spec.model)
    family = load_family(path, spec.device)
    side = family.image_size
    images = calibration_images(path, spec.images, side).to(family.device)
    pictures = held_out_pictures(path, spec.images, side)
    before = digest(family.vae.state_dict())
    with clock("train"):
        trained = _train(spec, family, images, out, observe)
    base = Subject("base", family.with_vae(pristine_copy(trained.attached)))
    hardened = Subject("hardened", family, spec.defenses)
    with clock("controls"):
        controls = _controls(spec, base, hardened, trained.log, images, out, observe)
    judge = judge_of(path, spec.judge, base.family)
    with clock("evaluate"):
        subjects = (base, hardened, *controls)
        evidence = gather(
            subjects, judge, pictures, spec.plan, out, seed=spec.seed, observe=observe
        )
    integrity = write_artifacts(
        out, path, family, trained.attached, before, pictures.images[:WEIGHTS_CHECKED]
    )
    run = Run(
        kind="harden",
        spec=spec,
        model=spec.model,
        plan=spec.plan,
        evidence=evidence,
        seconds=clock.seconds,
        base=base.family,
        trained_epsilon=float(spec.defense.epsilon),
        log=trained.log,
        integrity=integrity,
        quick=spec.quick,
    )
    return write_run(out, run)


def _train(
    spec: HardenSpec, family: Family, images: Images, out: Path, observe: Observer
) -> Trained:
    target = Target(family.vae, family.vae_posterior(), family.encoder_prefixes)
    return spec.defense.train(
        target,
        images,
        seed=spec.seed,
        observe=observe,
        checkpoint=out / _CHECKPOINTS / "hardened.safetensors",
    )


def _controls(
    spec: HardenSpec,
    base: Subject,
    hardened: Subject,
    log: TrainingLog,
    images: Images,
    out: Path,
    observe: Observer,
) -> list[Subject]:
    """Subjects of equal compute or equal cost, which say what the attack in training was worth."""
    ranks = {row.module: row.end for row in log.ranks}
    built = []
    for name in spec.controls:
        vae = copy.deepcopy(base.family.vae)
        twin = base.family.with_vae(vae)
        checkpoint = out / _CHECKPOINTS / f"{name}.safetensors"
        if name == "control_truncation":
            twin = twin.with_vae(truncation_of_cost(base, hardened, images))
        else:
            _train_control(spec, name, twin, ranks, images, checkpoint, observe)
        built.append(Subject(name, twin))
    return built


def _train_control(
    spec: HardenSpec,
    name: str,
    twin: Family,
    ranks: dict[str, int],
    images: Images,
    checkpoint: Path,
    observe: Observer,
) -> None:
    schedule, budget = spec.defense.schedule, spec.defense.rank_budget
    prefixes = twin.encoder_prefixes
    adaptive = Target(twin.vae, twin.vae_posterior(), prefixes, ranks)
    match name:
        case "control_plain":
            trainer: PlainLora | AdversarialLora = PlainLora(rank_budget=budget, schedule=schedule)
            target = replace(adaptive, surface=twin.autoencoder())
        case "control_noise":
            trainer, target = replace(spec.defense, inner=RandomNoise()), adaptive
        case "control_full":
            trainer, target = spec.defense, replace(adaptive, ranks=None, is_dense=True)
        case _:
            raise ConfigError(
                ConfigProblem(key="controls", expected=f"one of {', '.join(CONTROLS)}", got=name)
            )
    trainer.train(
        target, images, seed=spec.seed, observe=observe, checkpoint=checkpoint, phase=name
    )


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - start
