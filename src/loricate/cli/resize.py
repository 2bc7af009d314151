"""``loricate resize``: an adapter of lower rank."""

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


@click.command(cls=OneThread)
@click.argument("source", type=ADAPTER)
@click.option(
    "--rule",
    "rules",
    type=RULE_SET,
    required=True,
    multiple=True,
    help="rank:K, energy:P, nuclear:P, cutoff:C, numerical or a rule of another tool; by component "
    "as in unet=rank:8. Repeatable.",
)
@destination_options("peft", "diffusers", "kohya", required=False)
@component_option
@base_option
@json_option
def command(source: Path, rules: tuple[RuleSet, ...], as_json: bool, **flags: Any) -> None:
    """Bring the adapter SOURCE to lower rank, exactly.

    Each update becomes the best one of the rank that the rule picks; its singular values come from
    the factors, so that the product is never formed. The table says which share of the squared
    norm is in the file.
    """
    from loricate.recipes.resize import resize

    with progress_report() as observer:
        written = resize(
            source, destination(flags), rules=joined(rules), **flags, observer=observer
        )
    show_written(written, as_json=as_json)
