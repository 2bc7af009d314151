"""``loricate inspect``: what an adapter file is, and who can load it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loricate.cli._adapters import ADAPTER, OneThread, base_option
from loricate.cli.helpers import json_option, log, print_json, print_table, progress_report

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loricate.recipes.inspect import ComponentSummary, Inspection, ModuleSummary, Spread

__all__ = ["command"]

_COMPONENT = ("component", "modules", "parameters", "rank", "scale", "dtype", "‖ΔW‖", "σ₁ max")
_MODULE = ("component", "module", "shape", "rank", "scale", "‖ΔW‖", "σ₁")
_LONGEST = 60
"""Characters shown of a line of metadata."""

_HASH = {True: "that of the tensors", False: "not that of the tensors"}


@click.command(cls=OneThread)
@click.argument("path", type=ADAPTER)
@base_option
@click.option("--component", metavar="NAME", help="What it is for, if the file does not say.")
@click.option("--modules", "with_modules", is_flag=True, help="List every module.")
@json_option
def command(
    path: Path, base: Path | None, component: str | None, with_modules: bool, as_json: bool
) -> None:
    """Show what an adapter file is: form, ranks, norms, targets, and who will load it.

    PATH is a PEFT folder or a .safetensors file of diffusers, kohya, LyCORIS (LoCon) or ComfyUI.
    Norms are those of the updates, scale included.
    """
    from loricate.recipes.inspect import inspect

    with progress_report() as observer:
        found = inspect(path, component=component, base=base, observer=observer)
    if as_json:
        print_json({**asdict(found), "path": str(path)})
    else:
        _print(found, with_modules)


def _print(found: Inspection, with_modules: bool) -> None:
    size = f"{found.size_bytes / 1e6:.1f} MB"
    family = found.family or "unknown family"
    title = f"{found.path.name}: {found.form}, {family}, scale from {found.scale_source}, {size}"
    print_table(_COMPONENT, map(_component_row, found.components), title=title)
    targets = [(each.component, _counts(each.kinds)) for each in found.components]
    _print_more(("component", "targets"), targets)
    if with_modules:
        _print_more(_MODULE, map(_module_row, found.modules))
    if found.metadata:
        _print_more(("header", "says"), _metadata_rows(found))
    _print_more(("loader", "takes it", "why"), [(e.loader, e.answer, e.why) for e in found.loaders])
    for note in found.notes:
        log(f"note: {note}")


def _print_more(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    click.echo()
    print_table(columns, rows)


def _component_row(each: ComponentSummary) -> tuple[object, ...]:
    return (
        each.component,
        each.n_modules,
        f"{each.n_parameters:>10,}",
        _range(each.ranks),
        _range(each.scales),
        ", ".join(each.dtypes),
        f"{each.total_norm:.4g}",
        f"{each.spectral_norms.greatest:.4g}",
    )


def _module_row(each: ModuleSummary) -> tuple[object, ...]:
    shape = " x ".join(map(str, each.shape))
    norms = f"{each.frobenius_norm:.4g}", f"{each.spectral_norm:.4g}"
    return each.component, each.module, shape, each.rank, f"{each.scale:.4g}", *norms


def _metadata_rows(found: Inspection) -> list[tuple[str, str]]:
    from loricate.adapters.keys import HASH_KEY

    rows = []
    for key, text in found.metadata.items():
        # Control characters of a stranger's file must not reach the terminal.
        line = "".join(letter if letter.isprintable() else " " for letter in text)
        if key == HASH_KEY and found.hash_holds is not None:
            line = f"{line[:12]}…, {_HASH[found.hash_holds]}"
        rows.append((key, line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"))
    return rows


def _range(spread: Spread) -> str:
    if spread.least == spread.greatest:
        return f"{spread.least:.4g}"
    return f"{spread.median:.4g} ({spread.least:.4g} to {spread.greatest:.4g})"


def _counts(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items())
