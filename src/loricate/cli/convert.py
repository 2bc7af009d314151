"""``loricate convert``: an adapter file in another form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loricate.cli._adapters import (
    ADAPTER,
    base_option,
    component_option,
    destination,
    destination_options,
    show_written,
)
from loricate.cli.helpers import json_option, progress_report

__all__ = ["command"]


@click.command()
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
        _merge(source, as_json, flags)
        return
    from loricate.recipes.convert import convert

    with progress_report() as observer:
        written = convert(source, destination(flags), **flags, observer=observer)
    show_written(written, as_json=as_json)


def _merge(source: Path, as_json: bool, flags: dict[str, Any]) -> None:
    from loricate.cli.bake import command as bake
    from loricate.recipes._out import require_new, writing_to

    ctx = click.get_current_context()
    if flags["base"] is None:
        raise click.UsageError("Missing option '--base', the model to merge into.", ctx)
    require_new(flags["out"])
    options = {key: flags[key] for key in ("base", "out", "component", "dtype")}
    with writing_to(flags["out"]):
        ctx.invoke(bake, adapter=source, as_json=as_json, **options)
