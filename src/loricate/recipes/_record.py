"""Write what a run found: record, card, report."""

import datetime
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from loricate.basics.spec import to_table
from loricate.core.family import Family
from loricate.core.training import TrainingLog
from loricate.evaluation.verdict import Evidence as Question
from loricate.evaluation.verdict import Thresholds, decide
from loricate.lowrank.spectrum import effective_rank, singular_values, stable_rank
from loricate.recipes._artifacts import ADAPTER, MERGED
from loricate.recipes._card import write_card
from loricate.recipes._evidence import Evidence
from loricate.recipes._folder import CONFIG
from loricate.recipes._run_spec import RunSpec
from loricate.records.io import ROWS_FILE, write_record
from loricate.records.schema import (
    Environment,
    Integrity,
    RankRow,
    RunRecord,
    SpectrumRow,
    Training,
)
from loricate.surfaces.attach import target_layers

__all__ = ["Run", "write_run"]

_SHOWN_VALUES = 64


@dataclass(frozen=True)
class Run:
    """What a recipe hands over when it is done.

    Args:
        kind: Which recipe.
        spec: Its resolved settings.
        evidence: What was measured.
        seconds: Time by phase.
        base: The undefended pipeline.
        trained_epsilon: Radius trained against.
        log: The training, where there was one.
        integrity: What was verified about the weights.
    """

    kind: Literal["harden", "evaluate"]
    spec: RunSpec
    evidence: Evidence
    seconds: dict[str, float]
    base: Family
    trained_epsilon: float
    log: TrainingLog | None = None
    integrity: Integrity | None = None


def write_run(out: Path, run: Run) -> RunRecord:
    """Judge a run and write its record and model card.

    Args:
        out: Run folder.
        run: What was found.

    Returns:
        The record.
    """
    thresholds = Thresholds(
        epsilon=float(run.spec.plan.epsilon), trained_epsilon=run.trained_epsilon
    )
    question = Question(
        aggregates=run.evidence.aggregates, checks=run.evidence.checks, integrity=run.integrity
    )
    places = {"adapter": ADAPTER, "vae": MERGED, "config": CONFIG}
    record = RunRecord(
        kind=run.kind,
        created=datetime.datetime.now(datetime.UTC),
        quick=run.spec.quick,
        title=f"{run.spec.model} under attack",
        model=run.spec.model,
        verdict=decide(question, thresholds),
        config=to_table(run.spec),
        environment=_environment(run),
        aggregates=run.evidence.aggregates,
        checks=run.evidence.checks,
        edit_rule=run.evidence.rule,
        training=_training(run.log) if run.log else None,
        integrity=run.integrity,
        spectra=_spectra(run.base),
        blobs=run.evidence.blobs,
        outputs={purpose: path for purpose, path in places.items() if (out / path).exists()},
        rows_path=ROWS_FILE,
    )
    write_record(out, record)
    write_card(out, record)
    return record


def _environment(run: Run) -> Environment:
    return Environment(
        loricate=version("loricate"),
        python=platform.python_version(),
        torch=torch.__version__,
        diffusers=_version("diffusers"),
        transformers=_version("transformers"),
        peft=_version("peft"),
        platform=platform.platform(),
        cpu_count=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        device=str(run.base.device),
        seconds={phase: round(s, 1) for phase, s in run.seconds.items()},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _training(log: TrainingLog) -> Training:
    return Training(
        curves=log.curves,
        ranks=tuple(
            RankRow(
                module=row.module,
                rank_start=row.start,
                rank_end=row.end,
                rank_max=row.maximum,
                importance=row.importance,
                parameters=row.parameters,
            )
            for row in log.ranks
        ),
        seconds=log.seconds,
        parameters_adapter=log.parameters,
        parameters_target=log.parameters_target,
    )


def _spectra(base: Family) -> tuple[SpectrumRow, ...]:
    rows = []
    for path, layer in target_layers(base.vae, base.encoder_prefixes).items():
        values: Any = singular_values(layer.weight.detach().flatten(1))
        rows.append(
            SpectrumRow(
                module=path,
                shape=tuple(layer.weight.shape),
                singular_values=tuple(values[:_SHOWN_VALUES].tolist()),
                stable_rank=stable_rank(values),
                effective_rank=effective_rank(values),
            )
        )
    return tuple(rows)
