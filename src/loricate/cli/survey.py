"""``loricate survey``: many strategies, every attack, one table."""

from pathlib import Path

import click

from loricate.cli.exits import ExitCode
from loricate.cli.helpers import conclude, json_option, progress_report

__all__ = ["command"]


@click.command()
@click.option(
    "--config",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML: strategies, deployments, plan, prompts.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option(
    "--shard",
    metavar="I/N",
    help="Attack pictures share I of N only, such as 0/4, beside others on the same folder.",
)
@click.option("--dry-run", is_flag=True, help="Print the resolved settings and stop.")
@json_option
def command(
    config: Path, out: Path, resume: bool, shard: str | None, dry_run: bool, as_json: bool
) -> ExitCode:
    """Train the strategies of a plan, and attack all of them on pictures and prompts.

    Writes record.json, rows, adversarial pictures, config.toml and report.html, where defenses
    stand beside attacks in one table. The verdict is about the model named hardened. Processes
    with --shard attack a share of the pictures each, on one folder; --resume then does the rest.
    Exit code: 0 pass, 1 fail, 4 inconclusive, as it is without such a model.
    """
    from loricate.basics.spec import read_spec, to_toml
    from loricate.evaluation.runner import Shard
    from loricate.recipes.survey import SurveySpec, survey, survey_share

    spec = read_spec(SurveySpec, config)
    if dry_run:
        click.echo(to_toml(spec))
        return ExitCode.PASS
    if shard is not None:
        share = Shard.parse(shard)
        with progress_report() as progress:
            survey_share(spec, out, share, observe=lambda p, d, t, _: progress(p, d, t))
        return ExitCode.PASS
    with progress_report() as progress:
        record = survey(spec, out, observe=lambda p, d, t, _: progress(p, d, t), resume=resume)
    return conclude(record.verdict, out, as_json=as_json)
