"""``loricate harden``: an adapter, and the proof of what it is worth."""

from pathlib import Path
from typing import Any

import click

from loricate.cli.exits import ExitCode
from loricate.cli.helpers import PIXEL_LENGTH, conclude, json_option, progress_report

__all__ = ["command"]


@click.command()
@click.argument("model", required=False)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file as a run writes it; flags override it.",
)
@click.option("--epsilon", type=PIXEL_LENGTH, help="Radius to withstand, such as 8/255.")
@click.option(
    "--rank-budget",
    type=click.FloatRange(0, 1, min_open=True),
    help="Adapter size over encoder size.",
)
@click.option("--steps", type=click.IntRange(1), help="Training steps.")
@click.option("--seed", type=click.IntRange(0), help="Root of every draw.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), help="Where to run.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of pictures; every fifth is held out. Default: those of the model.",
)
@click.option(
    "--judge",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a CLIP model that compares edits. Default: the model's own.",
)
@click.option("--quick", is_flag=True, help="A first look in a minute; marked so in the record.")
@click.option("--full", is_flag=True, help="The whole protocol; hours on two cores.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@click.option("--dry-run", is_flag=True, help="Print the resolved settings and stop.")
@json_option
def command(out: Path, as_json: bool, resume: bool, dry_run: bool, **flags: Any) -> ExitCode:
    """Harden MODEL against adversarial images and measure what was gained.

    MODEL is the embedded model by default, a diffusers folder, a Stable Diffusion 1.x
    .safetensors file or a hub id. The run folder receives the adapter (PEFT), the merged
    autoencoder (diffusers), record.json, per-sample rows, config.toml, a model card and
    report.html. With --resume and no other flag, the settings in the run folder are used.
    Exit code: 0 pass, 1 fail, 4 inconclusive.
    """
    from loricate.basics.spec import to_toml
    from loricate.recipes._folder import CONFIG
    from loricate.recipes.harden import harden, resolve

    is_plain = all(value is None or value is False for value in flags.values())
    if resume and is_plain and (out / CONFIG).is_file():
        flags["config"] = out / CONFIG
    spec = resolve(**flags)
    if dry_run:
        click.echo(to_toml(spec))
        return ExitCode.PASS
    with progress_report() as progress:
        record = harden(spec, out, observe=lambda p, d, t, _: progress(p, d, t), resume=resume)
    return conclude(record.verdict, out, as_json=as_json)
