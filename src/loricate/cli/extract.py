"""``loricate extract``: a tuned model becomes an adapter of its base."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loricate.cli._adapters import OneThread
from loricate.cli.helpers import (
    RULE_SET,
    json_option,
    log,
    print_json,
    print_table,
    progress_report,
)

if TYPE_CHECKING:
    from loricate.recipes.extract import Extraction

__all__ = ["command"]

_MODEL = click.Path(exists=True, path_type=Path)


@click.command(cls=OneThread)
@click.option("--base", type=_MODEL, required=True, metavar="MODEL", help="Before tuning.")
@click.option("--tuned", type=_MODEL, required=True, metavar="MODEL", help="After tuning.")
@click.option(
    "--rule",
    "rules",
    type=RULE_SET,
    required=True,
    help="rank:K, energy:P, nuclear:P, cutoff:C, numerical, optimal or a rule of another tool; "
    "by component as in unet=rank:16,text_encoder=energy:0.9.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File or folder.")
@click.option(
    "--to",
    "form",
    type=click.Choice(["peft", "diffusers", "kohya"]),
    default="peft",
    show_default=True,
    help="Form of the adapter.",
)
@click.option("--component", metavar="NAME", help="Compare only vae, unet, text_encoder, ...")
@click.option(
    "--max-excess",
    type=click.FloatRange(min=0.0, min_open=True),
    default=0.02,
    show_default=True,
    help="Avoidable error allowed before a layer is decomposed exactly.",
)
@click.option("--ignore-rest", is_flag=True, help="Leave out what no low-rank update can hold.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", metavar="DEVICE", help="Compute with torch, on cpu, cuda, ...")
@json_option
def command(out: Path, form: str, as_json: bool, **flags: Any) -> None:
    """Extract a LoRA adapter from a tuned model and its base.

    Either MODEL is a diffusers folder, the folder of one component or a .safetensors file. Every
    layer comes with a certified bound of what the adapter leaves out.
    """
    from loricate.recipes.extract import ExtractSpec, extract

    with progress_report() as observer:
        found = extract(ExtractSpec(**flags), out, form=form, observer=observer)
    if as_json:
        print_json(_as_table(found, out))
    else:
        _print(found, out)


def _as_table(found: Extraction, out: Path) -> dict[str, object]:
    return {
        "out": str(out),
        "retained_energy": found.retained_energy,
        "n_unchanged": found.n_unchanged,
        "rest": list(found.rest),
        "skipped": list(found.skipped),
        "layers": [asdict(layer) for layer in found.layers],
    }


def _print(found: Extraction, out: Path) -> None:
    columns = ("component", "module", "shape", "norm", "rank", "energy ≥", "error ≤", "by")
    rows = [
        (
            layer.component,
            layer.module,
            " x ".join(map(str, layer.shape)),
            f"{layer.norm:.3g}",
            layer.rank,
            f"{layer.retained_energy:.4f}",
            f"{layer.relative_error:.4f}",
            "full SVD" if layer.exact else "sketch",
        )
        for layer in found.layers
    ]
    title = f"{out}: {len(found.adapter)} layers, energy kept ≥ {found.retained_energy:.4f}"
    print_table(columns, rows, title=title)
    if found.n_unchanged:
        log(f"unchanged: {found.n_unchanged} layers")
    if found.rest:
        log(f"not in the adapter: {', '.join(found.rest)}")
    if found.skipped:
        log(f"not compared: {', '.join(found.skipped)}")
