"""``loricate ls``: what can be named in a config."""

import click

from loricate.basics import registry
from loricate.cli.helpers import json_option, print_json, print_table

__all__ = ["command"]


@click.command()
@click.argument("kind", required=False, metavar="[KIND]", type=click.Choice(tuple(registry.KINDS)))
@json_option
def command(kind: str | None, as_json: bool) -> None:
    """List attacks, objectives, defenses, metrics, families, formats and rules.

    KIND, such as `attacks`, shows one of them only.
    """
    entries = [
        registry.describe(each, name)
        for each in ([kind] if kind else registry.KINDS)
        for name in registry.names(each)
    ]
    if as_json:
        print_json([{"kind": e.kind, "name": e.name, "summary": e.summary} for e in entries])
    else:
        print_table(("kind", "name", "summary"), [(e.kind, e.name, e.summary) for e in entries])
