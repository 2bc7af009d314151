"""What the commands that rewrite adapter files share: options, and what they print."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loricate.cli.helpers import log, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from loricate.lowrank.rule_set import RuleSet
    from loricate.recipes._out import Destination
    from loricate.recipes._rewriting import Written
    from loricate.recipes.bake import BakeReport

__all__ = [
    "ADAPTER",
    "OneThread",
    "base_option",
    "component_option",
    "destination",
    "destination_options",
    "joined",
    "show_baked",
    "show_written",
]

ADAPTER = click.Path(exists=True, path_type=Path)
"""Type of arguments that name a file or folder with an adapter."""


class OneThread(click.Command):
    """A command on factors, which are thin: one thread multiplies them.

    More gain little on an idle machine, and on a busy one wait for each other ten times as long.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say so before numpy asks, which is when it is first imported: by parsing a rank rule."""
        if "numpy" not in sys.modules and "OMP_NUM_THREADS" not in os.environ:
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        return super().parse_args(ctx, args)


base_option = click.option(
    "--base",
    type=click.Path(exists=True, path_type=Path),
    metavar="MODEL",
    help="Model it is for: resolves names, and its weights' shapes are checked.",
)
component_option = click.option(
    "--component", metavar="NAME", help="vae, unet, text_encoder, ...: what to take, or what it is."
)


def destination_options(*forms: str, required: bool) -> Callable[[Any], Any]:
    """Options that say where an adapter goes, and how.

    Args:
        forms: What ``--to`` may be.
        required: Whether ``--to`` must be given.
    """
    options = (
        click.option(
            "--to",
            "form",
            type=click.Choice(forms),
            required=required,
            help="Form to write." + ("" if required else "  [default: that of the source]"),
        ),
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            required=True,
            help="File or folder to write; an adapter that is there is replaced.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "float16", "bfloat16"]),
            help="Dtype of the factors.  [default: as in the source]",
        ),
        click.option(
            "--pad/--no-pad",
            default=True,
            show_default=True,
            help="kohya: fill all ranks up with zeros, which diffusers needs; user interfaces "
            "read mixed ranks, in smaller files.",
        ),
    )

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def destination(flags: dict[str, Any]) -> Destination:
    """Take the values of ``destination_options`` out of the flags of a command.

    Args:
        flags: All flags by name.
    """
    from loricate.recipes._out import Destination

    path = flags.pop("out")
    return Destination(path=path, **{key: flags.pop(key) for key in ("form", "dtype", "pad")})


def joined(rules: tuple[RuleSet, ...]) -> RuleSet:
    """One set of the rules of a repeated option.

    Args:
        rules: At least one set.

    Raises:
        ConfigError: Two rules are for the same.
    """
    from loricate.lowrank.rule_set import RuleSet

    return RuleSet.parse(",".join(map(str, rules)))


def show_written(written: Written, *, as_json: bool) -> None:
    """Print what became of each module.

    Args:
        written: The result of a recipe.
        as_json: Whether a program reads it.
    """
    if as_json:
        derived = {
            key: getattr(written, key) for key in ("least_energy", "n_underflow", "parameter_share")
        }
        print_json({**asdict(written), "out": str(written.out), **derived})
        return
    rows = [
        (
            each.component,
            each.module,
            " x ".join(map(str, each.shape)),
            each.rank_before,
            each.rank,
            _share(each.retained_energy),
        )
        for each in written.modules
    ]
    size = f"{written.parameter_share:.0%} of the parameters"
    title = f"{written.out.name}: {written.form}, {len(rows)} modules, {size}"
    print_table(("component", "module", "shape", "rank", "now", "energy kept"), rows, title=title)
    for note in written.notes:
        log(f"note: {note}")
    if written.n_underflow:
        log(f"underflow: {written.n_underflow} entries of the factors became zero")


def show_baked(report: BakeReport, *, as_json: bool) -> None:
    """Print what rounding did to each tensor that an update was written into.

    Args:
        report: The result of the recipe.
        as_json: Whether a program reads it.
    """
    if as_json:
        tensors = [
            {**asdict(tensor), "retained_energy": tensor.loss.retained_energy}
            for tensor in report.tensors
        ]
        derived = {key: getattr(report, key) for key in ("retained_energy", "n_underflow")}
        print_json(asdict(report) | {"out": str(report.out), **derived, "tensors": tensors})
        return
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


def _share(value: float) -> str:
    # Six digits would round what half precision loses up to nothing.
    return f"{value:.6f}" if value in (0.0, 1.0) or value < 1 - 1e-6 else f"1 - {1 - value:.0e}"
