"""``loricate convert``: an adapter file in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loricate.cli._adapters import (
    ADAPTER,
    OneThread,
    base_option,
    component_option,
    destination,
    destination_options,
    show_baked,
    show_written,
)
from loricate.cli.helpers import json_option, progress_report

__all__ = ["command"]


@click.command(cls=OneThread)
@click.argument("source", type=ADAPTER)
@destination_options("peft", "diffusers", "kohya", "merged", required=True)
@component_option
@base_option
@json_option
def command(source: Path, as_json: bool, **flags: Any) -> None:
    """Convert the adapter SOURCE between the forms of PEFT, diffusers and kohya.

    SOURCE is a PEFT folder or a .safetensors file of diffusers, kohya, LyCORIS (LoCon) or ComfyUI.
    The kohya form is for ComfyUI and A1111. With --to merged the adapter becomes part of a copy of
    the base MODEL, as loricate bake does it.
    """
    if flags["form"] == "merged":
        from loricate.recipes.bake import bake

        if flags["base"] is None:
            raise click.UsageError("Missing option '--base', the model to merge into.")
        options = {key: flags[key] for key in ("base", "out", "component", "dtype")}
        with progress_report() as observer:
            report = bake(source, **options, observer=observer)
        show_baked(report, as_json=as_json)
        return
    from loricate.recipes.convert import convert

    with progress_report() as observer:
        written = convert(source, destination(flags), **flags, observer=observer)
    show_written(written, as_json=as_json)
