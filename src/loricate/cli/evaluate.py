"""``loricate evaluate``: what an attacker who knows the defense can still do."""

from pathlib import Path

import click

from loricate.cli.exits import ExitCode
from loricate.cli.helpers import PIXEL_LENGTH, conclude, json_option, progress_report

__all__ = ["command"]

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("model", default="emoji-sd")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder.")
@click.option("--adapter", type=_FOLDER, help="PEFT folder of an adapter for the autoencoder.")
@click.option("--epsilon", type=PIXEL_LENGTH, default="16/255", help="Radius of the verdict.")
@click.option("--images", type=_FOLDER, help="Folder of pictures; every fifth is used.")
@click.option("--judge", type=_FOLDER, help="Folder of a CLIP model that compares edits.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Root of every draw.")
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", help="Where."
)
@click.option(
    "--size",
    type=click.Choice(["quick", "standard", "full"]),
    default="standard",
    show_default=True,
    help="How thorough the attacks are.",
)
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@json_option
def command(
    model: str,
    out: Path,
    adapter: Path | None,
    epsilon: float,
    images: Path | None,
    judge: Path | None,
    seed: int,
    device: str,
    size: str,
    resume: bool,
    as_json: bool,
) -> ExitCode:
    """Attack MODEL, with an adapter or without, through everything deployed.

    MODEL is the embedded model by default, a diffusers folder, a Stable Diffusion 1.x
    .safetensors file or a hub id. Writes record.json, rows, pictures, config.toml and report.html.
    Exit code: 0 pass, 1 fail, 4 inconclusive, as it is without an adapter.
    """
    from loricate.recipes._defaults import default_plan
    from loricate.recipes.evaluate import EvaluateSpec, evaluate

    spec = EvaluateSpec(
        model=model,
        adapter=adapter,
        trained_epsilon=epsilon,
        plan=default_plan(epsilon, size),  # type: ignore[arg-type]
        images=images,
        judge=judge,
        seed=seed,
        device=device,
        quick=size == "quick",
    )
    with progress_report() as progress:
        record = evaluate(spec, out, observe=lambda p, d, t, _: progress(p, d, t), resume=resume)
    return conclude(record.verdict, out, as_json=as_json)
