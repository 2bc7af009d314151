"""``loricate unbake``: an adapter leaves a model, and the base is back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loricate.cli.exits import ExitCode
from loricate.cli.helpers import json_option, print_json, print_table, progress_report

if TYPE_CHECKING:
    from loricate.recipes.unbake import UnbakeReport

__all__ = ["command"]

_PATH = click.Path(exists=True, path_type=Path)
_WORDS = {True: "the base, bit for bit", None: "not proven"}


@click.command()
@click.argument("baked", type=_PATH)
@click.option("--adapter", type=_PATH, required=True, help="What was baked.")
@click.option("--base", type=_PATH, metavar="MODEL", help="The base, to compare with.")
@click.option("--component", metavar="NAME", help="vae, unet, text_encoder, ...: what to restore.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New copy to write.")
@json_option
def command(as_json: bool, **flags: Any) -> ExitCode:
    """Take an adapter out of BAKED again, and prove that the base is back.

    The record that bake leaves beside the weights makes the result the base's bit for bit, and
    every tensor is checked against the digest in it, or against --base. Where the result is not
    the base, nothing is written. Exit code: 0 proven, 1 not the base, 4 nothing to compare with;
    then the largest possible error is printed.
    """
    from loricate.recipes.unbake import unbake

    with progress_report() as observer:
        report = unbake(**flags, observer=observer)
    if as_json:
        print_json(_as_table(report))
    else:
        rows = [(len(report.tensors), _WORDS[report.is_base], f"{report.max_error:.1e}")]
        print_table(("tensors", "result", "off by at most"), rows, title=str(report.out))
    return ExitCode.PASS if report.is_base else ExitCode.INCONCLUSIVE


def _as_table(report: UnbakeReport) -> dict[str, object]:
    return {
        "out": str(report.out),
        "gain": report.gain,
        "is_base": report.is_base,
        "max_error": report.max_error,
        "n_tensors": len(report.tensors),
        "errors": {tensor.name: tensor.max_error for tensor in report.tensors if tensor.max_error},
    }
