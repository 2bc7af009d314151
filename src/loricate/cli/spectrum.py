"""``loricate spectrum``: how much of every weight is low-rank."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loricate.cli.helpers import RANK_RULE, json_option, print_json, print_table, progress_report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loricate.lowrank.rules import RankRule
    from loricate.recipes.spectrum import WeightSpectrum

__all__ = ["command"]

_RULES = ("energy:0.9", "energy:0.99", "numerical")


@click.command()
@click.argument("model", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--component", default="all", show_default=True, help="vae, unet, text_encoder, ...")
@click.option(
    "--rule",
    "rules",
    type=RANK_RULE,
    multiple=True,
    default=_RULES,
    show_default=True,
    help="rank:K, energy:P, nuclear:P, cutoff:C, numerical, optimal or a rule of another tool. "
    "Repeatable.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw the spectra into a PNG, SVG or PDF file.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    help="Show only the N weights of largest spectral norm.",
    metavar="N",
)
@json_option
def command(
    model: Path | None,
    component: str,
    rules: tuple[RankRule, ...],
    plot: Path | None,
    top: int | None,
    as_json: bool,
) -> None:
    """Show the singular spectra of a model and the rank that rules would keep.

    MODEL is a diffusers folder, the folder of one component or a .safetensors file; the embedded
    model by default. Every Linear and Conv2d weight is decomposed; the error of a kept rank is a
    certified upper bound, relative to the Frobenius norm of the weight.
    """
    from loricate.recipes._out import require_outside
    from loricate.recipes.spectrum import spectrum

    model = model or _embedded()
    if plot is not None:
        require_outside(plot, [model])
    with progress_report() as observer:
        found = spectrum(model, rules=rules, component=component, observer=observer)
    if top is not None:
        found = tuple(sorted(found, key=lambda weight: -weight.spectral_norm)[:top])
    if plot is not None:
        _draw(found, plot, title=f"{model.name}: {len(found)} weights")
    if as_json:
        print_json({"model": str(model), "weights": [_as_table(weight) for weight in found]})
    else:
        _print(found, rules, title=str(model))


def _embedded() -> Path:
    from loricate import models

    return models.path()


def _as_table(weight: WeightSpectrum) -> dict[str, object]:
    table = asdict(weight)
    return {**table, "spectral_norm": weight.spectral_norm, "values": table.pop("values")}


def _print(found: Sequence[WeightSpectrum], rules: Sequence[RankRule], *, title: str) -> None:
    columns = ["component", "module", "shape", "σ₁", "stable", "effective"]
    for rule in map(str, rules):
        columns += [rule, "error ≤"]
    rows = []
    for weight in found:
        row: list[object] = [weight.component, weight.module, " x ".join(map(str, weight.shape))]
        row += [round(weight.spectral_norm, 3), round(weight.stable_rank, 1)]
        row += [round(weight.effective_rank, 1)]
        for kept in weight.kept.values():
            row += [kept.rank, round(kept.relative_error, 4)]
        rows.append(row)
    print_table(columns, rows, title=title)


def _draw(found: Sequence[WeightSpectrum], path: Path, *, title: str) -> None:
    from loricate.report.spectrum_plot import Curve, save_spectrum_plot

    curves = [
        Curve(values=weight.values, ranks={rule: kept.rank for rule, kept in weight.kept.items()})
        for weight in found
    ]
    save_spectrum_plot(curves, path, title=title)
