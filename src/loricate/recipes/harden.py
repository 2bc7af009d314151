"""Harden the image input of a Stable Diffusion, and prove what was gained."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import ConfigError, ConfigProblem, nearest
from loricate.basics.spec import Spec, read_spec, to_toml
from loricate.core.family import Family
from loricate.core.shapes import Images
from loricate.core.training import Observer, silent, until_left
from loricate.defenses._adapter_defense import AdapterDefense
from loricate.defenses._target import Target, Trained
from loricate.defenses.adversarial_lora import AdversarialLora
from loricate.defenses.plain_lora import PlainLora
from loricate.evaluation.plan import Plan
from loricate.evaluation.subjects import Subject
from loricate.evaluation.workers import Workers
from loricate.integrity.digest import digest
from loricate.recipes._artifacts import verify, write_artifacts
from loricate.recipes._clock import Clock
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
from loricate.recipes._inputs import digests_of
from loricate.recipes._matching import truncation_of_cost
from loricate.recipes._models import judge_of, load_family, model_path
from loricate.recipes._record import Run, write_run
from loricate.recipes._run_spec import RunSpec
from loricate.records.names import CONTROLS, PARTS
from loricate.records.schema import RunRecord
from loricate.surfaces.attach import pristine_copy

__all__ = ["HardenSpec", "harden", "resolve"]

_CHECKPOINTS: Final = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class HardenSpec(RunSpec):
    """Everything a run depends on; written beside its results.

    Args:
        defense: How the adapter is trained.
        controls: Which controls stand beside the adapter.
    """

    defense: AdversarialLora
    controls: tuple[str, ...] = ("control_plain", "control_noise", "control_truncation")

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Controls that do not exist."""
        for name in set(self.controls) - set(CONTROLS):
            yield ConfigProblem(
                key="controls",
                expected=f"some of {', '.join(CONTROLS)}",
                got=name,
                nearest=nearest(name, CONTROLS),
            )


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
    judge: Path | None = None,
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
        judge: Folder of a CLIP-like judge.
        quick: Shorten everything, and mark it.
        full: The whole protocol.

    Returns:
        The settings.

    Raises:
        ConfigError: A value does not fit, or flags contradict each other.
    """
    if [config is not None, quick, full].count(True) > 1:
        expected = "at most one of config, quick and full: each stands for a whole plan"
        raise ConfigError(ConfigProblem(key="config", expected=expected, got="several"))
    spec = read_spec(HardenSpec, config) if config else _defaults(epsilon, quick=quick, full=full)
    given = {"model": model, "seed": seed, "device": device, "images": images, "judge": judge}
    defense = _over(spec.defense, {"epsilon": epsilon, "rank_budget": rank_budget})
    schedule = _over(defense.schedule, {"steps": steps})
    plan = spec.plan if epsilon is None else _judged_at(spec.plan, epsilon)
    return _over(replace(spec, defense=replace(defense, schedule=schedule), plan=plan), given)


S = TypeVar("S", bound=Spec)


def _over(spec: S, flags: Mapping[str, object]) -> S:
    """The spec with the flags that were given."""
    return replace(spec, **{key: value for key, value in flags.items() if value is not None})


def _judged_at(plan: Plan, epsilon: float) -> Plan:
    """The plan with its radius of the verdict moved, in every trial that is run there."""
    trials = tuple(
        replace(trial, epsilons=_moved(trial.epsilons, plan.epsilon, epsilon))
        for trial in plan.trials
    )
    battery = plan.battery and plan.battery.at(epsilon)
    return replace(plan, trials=trials, epsilon=epsilon, battery=battery)


def _moved(radii: tuple[float, ...], old: float, new: float) -> tuple[float, ...]:
    swap = {old: new, new: old}
    moved = (
        next((to for start, to in swap.items() if math.isclose(each, start)), each)
        for each in radii
    )
    kept: list[float] = []
    for radius in moved:
        if not any(math.isclose(radius, each) for each in kept):
            kept.append(radius)
    return tuple(kept)


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
        ConfigError: ``out`` holds another run or one that began with another model or other
            pictures, or there are no pictures.
        PrerequisiteError: The model cannot be loaded.
    """
    path, clock = model_path(spec.model), Clock()
    family = load_family(path, spec.device)
    images = calibration_images(path, spec.images, family.image_size).to(family.device)
    pictures = held_out_pictures(path, spec.images, family.image_size).on(family.device)
    # Not before model and pictures are there: a mistyped path must not cost the user the folder.
    claim(out, to_toml(spec), resume=resume, inputs=digests_of(family, pictures, images))
    before = digest(family.vae.state_dict())
    with clock("train"):
        trained = _train(spec, family, images, out, observe)
    base = Subject("base", family.with_vae(pristine_copy(trained.attached)))
    hardened = Subject("hardened", family, spec.defenses)
    with clock("controls"):
        controls = _Controls(spec, base, hardened, images, out, observe).build(trained)
    judge = judge_of(path, spec.judge, base.family)
    subjects = (base, hardened, *_parts(base, hardened), *controls)
    with clock("evaluate"):
        evidence = gather(
            subjects, judge, pictures, spec.plan, out, seed=spec.seed, observe=observe
        )
    merged = write_artifacts(out, path, family, trained.attached)
    run = Run(
        kind="harden",
        spec=spec,
        evidence=evidence,
        seconds=clock.seconds,
        base=base.family,
        trained_epsilon=float(spec.defense.epsilon),
        log=trained.log,
        integrity=verify(family, trained.attached, merged, before, pictures.images),
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
        phase="harden",
    )


def _parts(base: Subject, hardened: Subject) -> list[Subject]:
    """What a composition is made of, each part deployed alone."""
    if not hardened.defenses:
        return []
    models = (hardened.family, ()), (base.family, hardened.defenses)
    return [Subject(name, *model) for name, model in zip(PARTS, models, strict=True)]


@dataclass(frozen=True)
class _Controls:
    """Subjects of equal compute or equal cost: what was the attack in training worth?"""

    spec: HardenSpec
    base: Subject
    hardened: Subject
    images: Images
    out: Path
    observe: Observer

    def build(self, trained: Trained) -> list[Subject]:
        """Every control that was asked for."""
        ranks = {row.module: row.end for row in trained.log.ranks}
        with until_left(self.observe) as observe:
            job = partial(self._family, ranks, observe)
            families = list(Workers.suited_to(self.images).map(job, self.spec.controls))
        return [Subject(*pair) for pair in zip(self.spec.controls, families, strict=True)]

    def _family(self, ranks: Mapping[str, int], observe: Observer, name: str) -> Family:
        base = self.base.family
        if name == "control_truncation":
            return base.with_vae(truncation_of_cost(self.base, self.hardened, self.images))
        twin = base.with_vae(copy.deepcopy(base.vae))
        trainer, target = self._training(name, twin, ranks)
        trainer.train(
            target,
            self.images,
            seed=self.spec.seed,
            observe=observe,
            checkpoint=self.out / _CHECKPOINTS / f"{name}.safetensors",
            phase=name,
        )
        return twin

    def _training(
        self, name: str, twin: Family, ranks: Mapping[str, int]
    ) -> tuple[AdapterDefense, Target]:
        defense = self.spec.defense
        target = Target(twin.vae, twin.vae_posterior(), twin.encoder_prefixes, ranks)
        match name:
            case "control_plain":
                plain = PlainLora(rank_budget=defense.rank_budget, schedule=defense.schedule)
                return plain, replace(target, surface=twin.autoencoder())
            case "control_noise":
                return replace(defense, inner=RandomNoise()), target
            case "control_full":
                return defense, replace(target, ranks=None, is_dense=True)
        raise AssertionError(f"the spec let {name!r} pass as a control")
