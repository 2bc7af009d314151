"""Many strategies on every surface: trained alike, attacked alike, in one table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, final, get_args

import numpy as np

from loricate.basics.errors import ConfigProblem
from loricate.basics.registry import key_of
from loricate.basics.spec import Count, Fraction01, PixelLength, Spec, to_toml
from loricate.core.family import Component, EditSettings, Family
from loricate.core.training import Observer, silent, until_left
from loricate.evaluation.prompt_aggregates import aggregate_prompts
from loricate.evaluation.prompts import PromptEvaluation, PromptRow, PromptTrial
from loricate.evaluation.runner import Shard
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.evaluation.workers import Workers
from loricate.integrity.digest import digest
from loricate.recipes._clock import Clock
from loricate.recipes._data import calibration_captions, calibration_images, held_out_pictures
from loricate.recipes._defaults import EPSILON
from loricate.recipes._deployment import Deployment, deploy
from loricate.recipes._evidence import attack_share, gather
from loricate.recipes._folder import claim
from loricate.recipes._inputs import digests_of
from loricate.recipes._models import judge_of, load_family, model_path
from loricate.recipes._record import Run, write_run
from loricate.recipes._run_spec import RunSpec
from loricate.recipes._strategy import Material, Strategy, build
from loricate.records.names import BASE, is_replicate
from loricate.records.schema import Aggregate, RunRecord
from loricate.surfaces.gated import whole_state

__all__ = ["PromptPlan", "SurveySpec", "survey", "survey_share"]

_JUDGE: Final = "judge"
_PROMPT_ROWS: Final = "prompts.jsonl"


@final
@dataclass(frozen=True, kw_only=True)
class PromptPlan(Spec):
    """How prompts are attacked.

    Args:
        trials: Attacks and budgets.
        n_prompts: Held-out prompts.
        sampling: How pictures are drawn from what attacks found.
        percentile: Share of pictures of another seed that must not count as broken.
    """

    trials: tuple[PromptTrial, ...]
    n_prompts: Count = 50
    sampling: EditSettings = field(
        default_factory=lambda: EditSettings(num_inference_steps=10, guidance=3.0)
    )
    percentile: Fraction01 = 0.95

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Trials whose rows could not be told apart in the record."""
        names = [
            (key_of(type(trial.attack)), trial.budget.kind, trial.budget.limit)
            for trial in self.trials
        ]
        for index, name in enumerate(names):
            if name in names[:index]:
                expected = "another attack or budget than an earlier one"
                yield ConfigProblem(key=f"trials.{index}", expected=expected, got=name[0])


@final
@dataclass(frozen=True, kw_only=True)
class SurveySpec(RunSpec):
    """Everything a survey depends on; written beside its results.

    ``defenses`` of a run stand in front of one model; here every strategy names its own.

    Args:
        strategies: What is trained and attacked, by name; ``hardened`` is judged.
        deployments: What is attacked as it is, with adapters from files.
        prompts: How prompts are attacked; ``None`` leaves them out.
        trained_epsilon: Radius the adapters are trained against, for the verdict.
    """

    strategies: dict[str, Strategy] = field(default_factory=dict)
    deployments: tuple[Deployment, ...] = ()
    prompts: PromptPlan | None = None
    trained_epsilon: PixelLength = EPSILON

    @property
    def names(self) -> tuple[str, ...]:
        """Every model but the base."""
        return (*self.strategies, *(each.name for each in self.deployments))

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Names that two models would share, or preprocessing that belongs to none."""
        names = (BASE, *self.names)
        for name in filter(is_replicate, names):
            expected = "a name without @, which names trainings with several seeds"
            yield ConfigProblem(key="strategies", expected=expected, got=name)
        for name in {name for name in names if names.count(name) > 1}:
            expected = "a name of its own for every model, the base included"
            yield ConfigProblem(key="strategies", expected=expected, got=name)
        if self.defenses:
            expected = "none here; name them in a strategy"
            yield ConfigProblem(key="defenses", expected=expected, got=len(self.defenses))


def survey(
    spec: SurveySpec, out: Path, *, observe: Observer = silent, resume: bool = False
) -> RunRecord:
    """Train every strategy, attack all of them and the base, and write one record.

    Args:
        spec: Model, strategies and plans.
        out: Run folder.
        observe: Told about every step.
        resume: Continue the run that ``out`` holds.

    Returns:
        The record; its verdict is about the strategy named ``hardened``, and inconclusive where
        there is none.

    Raises:
        ConfigError: ``out`` holds another run, or the model brings no pictures or captions.
        PrerequisiteError: The model cannot be loaded.
    """
    clock = Clock()
    with clock("train"):
        scene = _scene(spec, out, observe, resume=resume)
    subjects, pictures, judge = scene
    with clock("evaluate"):
        evidence = gather(
            subjects, judge, pictures, spec.plan, out, seed=spec.seed, observe=observe
        )
    with clock("prompts"):
        prompted = _prompted(spec, subjects, pictures, out)
    run = Run(
        kind="evaluate",
        spec=spec,
        evidence=replace(evidence, aggregates=evidence.aggregates + prompted),
        seconds=clock.seconds,
        base=subjects[0].family,
        trained_epsilon=float(spec.trained_epsilon),
    )
    return write_run(out, run)


def survey_share(spec: SurveySpec, out: Path, shard: Shard, *, observe: Observer = silent) -> None:
    """Attack every model on one share of the pictures; ``survey`` with ``resume`` does the rest.

    Args:
        spec: Model, strategies and plans.
        out: Run folder, shared by all shares.
        shard: Which share.
        observe: Told about every step.
    """
    subjects, pictures, judge = _scene(spec, out, observe, resume=True)
    attack_share(subjects, judge, pictures, spec.plan, out, shard, seed=spec.seed, observe=observe)


def _scene(
    spec: SurveySpec, out: Path, observe: Observer, *, resume: bool
) -> tuple[list[Subject], Pictures, FeatureSpace]:
    """Every model, trained where it has to be, the pictures, and the judge."""
    path = model_path(spec.model)
    base = load_family(path, spec.device)
    images = calibration_images(path, spec.images, base.image_size).to(base.device)
    material = Material(images, calibration_captions(path))
    pictures = held_out_pictures(path, spec.images, base.image_size).on(base.device)
    deployed = [deploy(base, each) for each in spec.deployments]
    inputs = digests_of(base, pictures, images) | _digests(deployed)
    claim(out, to_toml(spec), resume=resume, inputs=inputs)
    built = _built(spec, base, material, out, observe)
    judge = judge_of(path, spec.judge, base)
    return [Subject(BASE, base), *built, *deployed], pictures, judge


def _digests(deployed: Sequence[Subject]) -> dict[str, str]:
    """Digest of every part that an adapter from a file was put on."""
    return {
        f"{part} of {subject.name}": digest(whole_state(subject.family.module(part)))
        for subject in deployed
        for part in get_args(Component)
    }


def _built(
    spec: SurveySpec, base: Family, material: Material, out: Path, observe: Observer
) -> list[Subject]:
    jobs = [
        (subject, strategy, seed)
        for name, strategy in spec.strategies.items()
        for subject, seed in strategy.trainings(name, spec.seed)
    ]
    with until_left(observe) as watch:

        def built(job: tuple[str, Strategy, int]) -> Subject:
            folder = out / "checkpoints"
            name, strategy, seed = job
            made = build(name, strategy, base, material, seed=seed, observe=watch, folder=folder)
            return made.subject

        return list(Workers.suited_to(material.images).map(built, jobs))


def _prompted(
    spec: SurveySpec, subjects: Sequence[Subject], pictures: Pictures, out: Path
) -> tuple[Aggregate, ...]:
    """Numbers of the prompt surface; strategies that share a text encoder share its rows."""
    plan = spec.prompts
    if plan is None:
        return ()
    base = subjects[0].family
    judge = judge_of(model_path(spec.model), spec.judge, base)
    evaluation = PromptEvaluation(
        base=base,
        prompts=tuple(dict.fromkeys(pictures.prompts))[: plan.n_prompts],
        judges={_JUDGE: judge},
        settings=plan.sampling,
        seed=spec.seed,
        path=out / _PROMPT_ROWS,
    )
    rows = evaluation.run(_drawing(subjects), plan.trials)
    other = replace(evaluation, seed=spec.seed + 1).run({BASE: base}, ())
    margin = _margin(rows, other, float(plan.percentile))
    return aggregate_prompts(rows, judge=_JUDGE, margin=margin, seed=spec.seed)


def _drawing(subjects: Sequence[Subject]) -> dict[str, Family]:
    """The base, and every other pipeline; preprocessing alone changes nothing for prompts."""
    base = subjects[0].family
    return {s.name: s.family for s in subjects if s.name == BASE or s.family is not base}


def _margin(rows: Sequence[PromptRow], other: Sequence[PromptRow], percentile: float) -> float:
    """How much agreement another seed costs the base, at a percentile of its clean prompts."""
    first = {row.sample: row.alignment[_JUDGE] for row in rows if _is_clean(row)}
    second = {row.sample: row.alignment[_JUDGE] for row in other if _is_clean(row)}
    return float(np.quantile([first[at] - second[at] for at in sorted(first)], percentile))


def _is_clean(row: PromptRow) -> bool:
    return row.subject == BASE and not row.trial
