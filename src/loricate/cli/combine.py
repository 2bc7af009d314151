"""``loricate combine``: the weighted sum of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loricate.cli._adapters import (
    ADAPTER,
    OneThread,
    base_option,
    component_option,
    destination,
    destination_options,
    joined,
    show_written,
)
from loricate.cli.helpers import RULE_SET, json_option, progress_report

if TYPE_CHECKING:
    from loricate.lowrank.rule_set import RuleSet

__all__ = ["command"]


class _Numbers(click.ParamType[tuple[float, ...]]):
    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        try:
            return tuple(map(float, value.split(","))) if isinstance(value, str) else value
        except ValueError:
            self.fail(f"expected numbers such as '1,0.5', got {value!r}", param, ctx)


@click.command(cls=OneThread)
@click.argument("sources", type=ADAPTER, nargs=-1, required=True)
@click.option("--weights", type=_Numbers(), help="One factor for each.  [default: 1,1,...]")
@click.option(
    "--rule",
    "rules",
    type=RULE_SET,
    multiple=True,
    help="Rank of the sum, as in loricate resize.  [default: ranks add up]",
)
@destination_options("peft", "diffusers", "kohya", required=False)
@component_option
@base_option
@json_option
def command(
    sources: tuple[Path, ...], rules: tuple[RuleSet, ...], as_json: bool, **flags: Any
) -> None:
    """Add up adapters into one, without cross terms.

    Factors are stacked, which is exact; with --rule the sum is then brought to lower rank. SOURCES
    may have different forms and update different modules.
    """
    from loricate.recipes.combine import combine

    to, rule_set = destination(flags), joined(rules) if rules else None
    with progress_report() as observer:
        written = combine(sources, to, rules=rule_set, **flags, observer=observer)
    show_written(written, as_json=as_json)
