"""``loricate report``: the page of a finished run, built anew."""

from pathlib import Path

import click

from loricate.cli.helpers import json_option, print_json

__all__ = ["command"]


@click.command()
@click.argument(
    "directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Rebuild report.html of a finished run.

    DIR is the folder a run wrote with --out. The report is made from record.json and the pictures
    beside it, whose digests are checked first; no model and no torch are needed. The exit code
    says whether the report was built, not what the verdict in it is.
    """
    from loricate.recipes.report import report

    path = report(directory)
    if as_json:
        print_json({"report": str(path), "size_bytes": path.stat().st_size})
    else:
        click.echo(path)
