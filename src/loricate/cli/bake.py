"""``loricate bake``: an adapter becomes part of a model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loricate.cli.helpers import json_option, print_json, print_table, progress_report

if TYPE_CHECKING:
    from loricate.recipes.bake import BakeReport

__all__ = ["command"]

_PATH = click.Path(exists=True, path_type=Path)


@click.command()
@click.argument("adapter", type=_PATH)
@click.option("--base", type=_PATH, required=True, metavar="MODEL", help="What to bake into.")
@click.option("--component", metavar="NAME", help="vae, unet, text_encoder, ...: what to bake.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Copy to write.")
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
    if as_json:
        print_json(_as_table(report))
    else:
        _print(report)


def _as_table(report: BakeReport) -> dict[str, object]:
    table = asdict(report) | {"out": str(report.out)}
    tensors = [
        {**asdict(tensor), "retained_energy": tensor.loss.retained_energy}
        for tensor in report.tensors
    ]
    return {
        **table,
        "retained_energy": report.retained_energy,
        "n_underflow": report.n_underflow,
        "tensors": tensors,
    }


def _print(report: BakeReport) -> None:
    rows = []
    for tensor in report.tensors:
        loss = tensor.loss
        if loss.update_norm == 0 and loss.n_underflow == 0:
            continue
        change = loss.update_norm / loss.weight_norm if loss.weight_norm else float("inf")
        cells = (tensor.name, tensor.dtype, f"{change:.2e}", f"{1 - loss.retained_energy:.1e}")
        rows.append((*cells, loss.n_underflow))
    columns = ("tensor", "dtype", "update / weight", "energy lost", "underflows")
    title = f"{report.out}: {report.modules} modules of {', '.join(report.components)}"
    print_table(columns, rows, title=title)
