"""``loricate show``: everything about one entry of ``loricate ls``."""

from dataclasses import asdict

import click

from loricate.basics import registry
from loricate.cli.helpers import json_option, print_json, print_table

__all__ = ["command"]


@click.command()
@click.argument("kind", metavar="KIND", type=click.Choice(tuple(registry.KINDS)))
@click.argument("name")
@json_option
def command(kind: str, name: str, as_json: bool) -> None:
    """Show the description and the parameters of one entry.

    KIND and NAME are as `loricate ls` lists them.
    """
    entry = registry.describe(kind, name)
    if as_json:
        print_json(asdict(entry))
        return
    click.echo(f"{kind}/{name}\n\n{entry.docstring}\n")
    rows = [(p.name, p.annotation, p.default or "required") for p in entry.parameters]
    if rows:
        print_table(("parameter", "type", "default"), rows)
