"""``loricate bake``: an adapter becomes part of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loricate.cli._adapters import show_baked
from loricate.cli.helpers import json_option, progress_report

__all__ = ["command"]

_PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("adapter", type=_PATH)
@click.option("--base", type=_PATH, required=True, metavar="MODEL", help="What to bake into.")
@click.option("--component", metavar="NAME", help="vae, unet, text_encoder, ...: what to bake.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New copy to write.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    help="Store all floats so.  [default: as the base does]",
)
@click.option("--gain", type=float, default=1.0, show_default=True, help="Factor on the update.")
@json_option
def command(as_json: bool, **flags: Any) -> None:
    """Write ADAPTER into the weights of a model, in the layout of the model.

    MODEL is a diffusers folder, the folder of one component or a .safetensors file; so is the
    copy. The folder of an autoencoder also becomes a VAE file for user interfaces, if --out ends
    in .safetensors. Beside the weights stays a record (.unbake) that takes the adapter out again
    to the bit; delete it if you never will.
    """
    from loricate.recipes.bake import bake

    with progress_report() as observer:
        report = bake(**flags, observer=observer)
    show_baked(report, as_json=as_json)
