"""``loricate gate``: a run judged by thresholds that a CI job states."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loricate.cli._formats import format_options, show
from loricate.cli.exits import ExitCode, for_outcome
from loricate.cli.helpers import PIXEL_LENGTH, log

if TYPE_CHECKING:
    from loricate.recipes.gate import GateSpec
    from loricate.records.schema import Criterion
    from loricate.report.outcomes import Outcome

__all__ = ["command"]

_AT_LEAST_0 = click.FloatRange(min=0)


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="TOML",
    help="Thresholds under the names of the flags; flags override it.",
)
@click.option("--max-psnr-drop", type=_AT_LEAST_0, metavar="DB", help="Clean reconstruction lost.")
@click.option("--max-drift", type=_AT_LEAST_0, metavar="SHARE", help="How far clean latents move.")
@click.option(
    "--max-alignment-drop", type=_AT_LEAST_0, metavar="SHARE", help="Prompt alignment lost."
)
@click.option(
    "--min-robust-gain",
    type=_AT_LEAST_0,
    metavar="FACTOR",
    help="How much smaller latent drift under attack is than the base's.",
)
@click.option(
    "--max-success-ratio",
    type=_AT_LEAST_0,
    metavar="SHARE",
    help="Attack success on the hardened model over that on the base.",
)
@click.option(
    "--min-success-over-noise",
    type=_AT_LEAST_0,
    metavar="FACTOR",
    help="Attack success on the base over that of noise: whether the attack is one.",
)
@click.option("--epsilon", type=PIXEL_LENGTH, help="Radius of attack success, such as 16/255.")
@click.option("--trained-epsilon", type=PIXEL_LENGTH, help="Radius of the gain.")
@format_options
def command(
    run: Path, config: Path | None, form: str | None, out: Path | None, **flags: Any
) -> ExitCode:
    """Hold the record of a run to thresholds.

    RUN is a folder that harden or evaluate wrote. The verdict is made anew from the intervals in
    record.json, without torch or weights; thresholds that are not given are those of harden.
    Exit code: 0 pass, 1 fail, 4 where the record lacks evidence or its intervals leave it open.
    """
    from loricate.recipes._out import require_outside
    from loricate.recipes.gate import folder_of, gate

    if out is not None:
        require_outside(out, [folder_of(run), *([config] if config else [])])
    record, verdict = gate(run, _spec(config, flags))
    outcomes = [_outcome(criterion) for criterion in verdict.criteria]
    table = verdict.model_dump(mode="json")
    extra = {"run": str(run), "quick": record.quick, "criteria": table["criteria"]}
    show(outcomes, verdict.status, suite="loricate gate", form=form, out=out, **extra)
    if record.quick:
        log("note: a quick run; its intervals are wide")
    return for_outcome(verdict.status)


def _spec(config: Path | None, flags: dict[str, Any]) -> GateSpec:
    from dataclasses import replace

    from loricate.basics.spec import read_spec
    from loricate.recipes.gate import GateSpec

    spec = GateSpec() if config is None else read_spec(GateSpec, config)
    return replace(spec, **{key: value for key, value in flags.items() if value is not None})


def _outcome(criterion: Criterion) -> Outcome:
    from loricate.integrity.finding import Severity
    from loricate.records.io import RECORD_FILE
    from loricate.report.outcomes import Outcome

    measured = "" if criterion.measured is None else f"; measured {criterion.measured:.4g}"
    note = f" ({criterion.note})" if criterion.note else ""
    return Outcome(
        rule=criterion.name,
        level=Severity.HIGH,
        path=RECORD_FILE,
        message=f"{criterion.requirement}{measured}{note}",
        passed=criterion.passed,
    )
