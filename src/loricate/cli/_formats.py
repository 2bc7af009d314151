"""What commands that judge share: a table for people, and JSON, SARIF and JUnit for machines."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loricate.cli.helpers import json_text, log, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loricate.report.outcomes import Outcome

__all__ = ["format_options", "show"]

_FORMATS = ("json", "sarif", "junit")
_WORDS = {True: "holds", False: "FAILS", None: "not verified"}


def format_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options ``--json``, ``--sarif``, ``--junit`` and ``--out``; they become ``form`` and ``out``.

    Args:
        command: What gets them.
    """
    helps = {
        "json": "Print JSON to stdout instead of a table.",
        "sarif": "Print SARIF 2.1.0, as code hosts show it.",
        "junit": "Print JUnit XML, as CI servers read it.",
    }
    command = click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write to a file instead: JSON, unless another form is asked for.",
    )(command)
    for form in reversed(_FORMATS):
        command = click.option(f"--{form}", "form", flag_value=form, help=helps[form])(command)
    return command


def show(
    outcomes: Sequence[Outcome],
    verdict: str,
    *,
    suite: str,
    form: str | None,
    out: Path | None,
    **extra: object,
) -> None:
    """Print outcomes, or write them to a file.

    Args:
        outcomes: What checks came to.
        verdict: ``pass``, ``fail`` or ``inconclusive``.
        suite: The command.
        form: ``json``, ``sarif``, ``junit`` or ``None`` for a table.
        out: Where to; ``None`` prints.
        extra: What JSON says besides.

    Raises:
        PrerequisiteError: The file cannot be written.
    """
    from loricate.recipes._out import write_report
    from loricate.report.outcomes import printable

    if form is None and out is None:
        rows = [
            (each.rule, printable(_place(each)), _WORDS[each.passed], printable(each.message))
            for each in outcomes
        ]
        print_table(("check", "of", "", "what was found"), rows, title=f"{suite}: {verdict}")
        return
    text = _text(outcomes, verdict, suite, form or "json", extra)
    if out is None:
        click.echo(text)
        return
    write_report(out, f"{text}\n".encode())
    log(f"{verdict}: {out}")


def _place(outcome: Outcome) -> str:
    return outcome.path if outcome.where is None else f"{outcome.path}:{outcome.where}"


def _text(
    outcomes: Sequence[Outcome], verdict: str, suite: str, form: str, extra: dict[str, object]
) -> str:
    from loricate.report.junit import junit
    from loricate.report.sarif import sarif

    if form == "junit":
        return junit(outcomes, suite=suite).rstrip("\n")
    table: dict[str, Any]
    if form == "sarif":
        table = sarif(outcomes)
    else:
        table = {**extra, "verdict": verdict, "checks": [asdict(each) for each in outcomes]}
    return json_text(table)
