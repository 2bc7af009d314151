"""What commands share: the ``--json`` flag, tables, and progress that stays off a pipe.

A command file looks like this::

    @click.command()
    @json_option
    def command(as_json: bool) -> ExitCode | None:
        \"\"\"What the user gets, in one line.\"\"\"
        from loricate.recipes.example import example  # heavy imports live here

        print_table(...)
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from loricate.basics.errors import ConfigError
from loricate.basics.quantities import parse_pixel_length
from loricate.cli.exits import ExitCode, for_outcome

if TYPE_CHECKING:
    from loricate.lowrank.rule_set import RuleSet
    from loricate.lowrank.rules import RankRule

__all__ = [
    "PIXEL_LENGTH",
    "RANK_RULE",
    "RULE_SET",
    "ProgressReport",
    "conclude",
    "json_option",
    "json_text",
    "log",
    "print_json",
    "print_table",
    "progress_report",
]

_WIDE = 1000
"""Columns of a table that goes to a file or a pipe: wide enough never to wrap."""


class _PixelLength(click.ParamType[float]):
    name = "length"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        try:
            return parse_pixel_length(value, key="")
        except ConfigError as error:
            self.fail(str(error), param, ctx)


PIXEL_LENGTH = _PixelLength()
"""Type of options such as ``--epsilon``: a number in [0, 1], or a fraction such as ``8/255``."""


class _RankRule(click.ParamType["RankRule"]):
    name = "rule"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "RankRule":
        from loricate.lowrank.rules import parse

        try:
            return parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            self.fail(str(error), param, ctx)


RANK_RULE = _RankRule()
"""Type of options such as ``--rule``: how a rank is chosen, such as ``energy:0.95``."""


class _RuleSet(click.ParamType["RuleSet"]):
    name = "rules"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> "RuleSet":
        from loricate.lowrank.rule_set import RuleSet

        try:
            return RuleSet.parse(value) if isinstance(value, str) else value
        except ConfigError as error:
            self.fail(str(error), param, ctx)


RULE_SET = _RuleSet()
"""Type of options that take one rule, or one for each component: ``unet=rank:8,vae=rank:4``."""

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON to stdout instead of a table."
)


def print_json(value: object) -> None:
    """A value on stdout as indented JSON.

    Args:
        value: Plain lists, tables and scalars.
    """
    click.echo(json_text(value))


def json_text(value: object) -> str:
    """A value as indented JSON in ASCII, which no terminal and no file name can break.

    Args:
        value: Plain lists, tables and scalars. NaN and infinity, which JSON lacks, become text.
    """
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on stdout, colored on a terminal and plain elsewhere.

    Args:
        columns: Headings.
        rows: Cells, one per column; numbers are aligned to the right.
        title: Line above the table.
    """
    cells = [tuple(row) for row in rows]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, heading in enumerate(columns):
        is_number = all(isinstance(row[index], int | float) for row in cells)
        table.add_column(heading, justify="right" if cells and is_number else "left")
    for row in cells:
        table.add_row(*map(_escape, row))
    _console(stderr=False).print(table)


def conclude(verdict: Any, out: Path, *, as_json: bool) -> ExitCode:
    """Build the report of a run, print its verdict and say how to leave.

    Args:
        verdict: The ``Verdict`` of its record.
        out: Run folder, with the record in it.
        as_json: Whether a program reads along.

    Returns:
        The exit code of the verdict.
    """
    from loricate.recipes.report import report
    from loricate.records.io import RECORD_FILE

    page = report(out)
    if as_json:
        paths = {"report": str(page), "record": str(out / RECORD_FILE)}
        print_json({"verdict": verdict.status, **paths})
    else:
        _print_criteria(verdict)
        log(f"report: {page}")
    return for_outcome(verdict.status)


def _print_criteria(verdict: Any) -> None:
    words = {True: "yes", False: "no", None: "undecided"}
    rows = [
        (c.requirement, "" if c.measured is None else f"{c.measured:.4g}", words[c.passed])
        for c in verdict.criteria
    ]
    print_table(("requirement", "measured", "met"), rows, title=f"verdict: {verdict.status}")


def log(message: str) -> None:
    """A line on stderr.

    Args:
        message: What to say.
    """
    click.echo(message, err=True)


class ProgressReport:
    """Receives how far each stage is, and shows it on stderr.

    On a terminal every stage has a bar with the time left. Elsewhere a stage is one line when it
    begins and one when it is done.

    Args:
        progress: The bars, or ``None`` off a terminal.
    """

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._begun: set[str] = set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` steps of a stage are over."""
        if self._progress is None:
            self._write_line(stage, done, total)
        else:
            task = self._task(self._progress, stage, total)
            self._progress.update(task, completed=done, total=total)

    def _task(self, progress: Progress, stage: str, total: int) -> TaskID:
        if stage not in self._tasks:
            self._tasks[stage] = progress.add_task(stage, total=total)
        return self._tasks[stage]

    def _write_line(self, stage: str, done: int, total: int) -> None:
        if stage not in self._begun:
            self._begun.add(stage)
            log(f"{stage}: {total} steps")
        if done >= total:
            log(f"{stage}: done")


@contextmanager
def progress_report() -> Iterator[ProgressReport]:
    """Progress on stderr while the block runs; bars on a terminal only.

    Yields:
        A callable ``(stage, done, total)`` to hand to a recipe as its observer.
    """
    if not sys.stderr.isatty():
        yield ProgressReport(None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(stderr=True)) as progress:
        yield ProgressReport(progress)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDE, highlight=False)


def _escape(cell: object) -> str:
    # Square brackets are data here, not markup.
    return str(cell).replace("[", r"\[")
