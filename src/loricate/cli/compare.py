"""``loricate compare``: runs side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loricate.cli.helpers import json_option, log, print_json, print_table

if TYPE_CHECKING:
    from loricate.recipes._paired import Column
    from loricate.recipes.compare import Comparison, Line

__all__ = ["command"]

_SHOWN_DIFFERENCES = 8


@click.command()
@click.argument(
    "runs",
    metavar="RUN...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--subject",
    "subjects",
    multiple=True,
    metavar="NAME",
    help="Model to show, such as control_plain. Repeatable.",
)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    help="Metric to show, such as edit_ssim. Repeatable.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw the table into a PNG, SVG or PDF file.",
)
@json_option
def command(
    runs: tuple[Path, ...],
    subjects: tuple[str, ...],
    metrics: tuple[str, ...],
    plot: Path | None,
    as_json: bool,
) -> None:
    """Put the numbers of runs side by side, with their intervals.

    RUN is a folder that harden or evaluate wrote. One run shows its own models; several show the
    base of the first and the hardened model of each. Settings in which runs differ are listed, as
    numbers under other conditions answer another question. Runs on the same pictures are tested
    pair by pair. Only record.json and rows.jsonl are read; no torch is needed.
    """
    from loricate.recipes._out import require_outside
    from loricate.recipes.compare import compare

    if plot is not None:
        require_outside(plot, runs)
    comparison = compare(runs, subjects=subjects, metrics=metrics)
    if plot is not None:
        _plot(comparison, plot)
    if as_json:
        print_json(_as_json(comparison))
        return
    _print(comparison)
    if plot is not None:
        log(f"plot: {plot}")


def _print(comparison: Comparison) -> None:
    from loricate.report.words import interval, metric_label

    names = _column_names(comparison)
    for metric in dict.fromkeys(line.metric for line in comparison.rows):
        rows = [
            (_label(line), *(interval(row[c]) if c in row else "" for c in names))
            for line, row in comparison.rows.items()
            if line.metric == metric
        ]
        print_table(("attack", *names.values()), rows, title=metric_label(metric))
        click.echo()
    if comparison.paired:
        _print_paired(comparison)
    _warn(comparison)


def _print_paired(comparison: Comparison) -> None:
    from loricate.records.names import budget_text
    from loricate.report.words import number, plain

    names = _column_names(comparison)
    rows = [
        (
            plain(t.metric),
            names[t.first],
            names[t.second],
            budget_text(t.epsilon, t.norm),
            t.n,
            f"{t.only_first:.3g}",
            f"{t.only_second:.3g}",
            f"{number(t.difference)} [{number(t.low)}, {number(t.high)}]",
            f"{t.p_value:.2g}",
        )
        for t in comparison.paired
    ]
    more = ("more on first", "more on second", "difference", "p (Holm)")
    columns = ("metric", "first", "second", "budget", "n", *more)
    print_table(columns, rows, title="same samples, worst case")


def _warn(comparison: Comparison) -> None:
    for name in comparison.quick:
        log(f"note: {name} is a quick run; its intervals are wide")
    for name, errors in comparison.unreliable.items():
        log(f"unreliable: {name} has failed checks: {', '.join(errors)}")
    if comparison.differences:
        log("the runs differ in settings their numbers depend on; compare with care:")
    for each in comparison.differences[:_SHOWN_DIFFERENCES]:
        log(f"  {each.key}: {' | '.join(map(str, each.values))}")
    if (rest := len(comparison.differences) - _SHOWN_DIFFERENCES) > 0:
        log(f"  and {rest} more; --json lists all")


def _plot(comparison: Comparison, path: Path) -> None:
    from loricate.report.forest_plot import Panel, save_forest_plot
    from loricate.report.words import metric_label

    names = _column_names(comparison)
    panels = [
        Panel(
            title=metric_label(metric),
            rows={
                _label(line): {names[column]: a for column, a in row.items()}
                for line, row in comparison.rows.items()
                if line.metric == metric
            },
        )
        for metric in dict.fromkeys(line.metric for line in comparison.rows)
    ]
    save_forest_plot(panels, list(names.values()), path)


def _column_names(comparison: Comparison) -> dict[Column, str]:
    """Headings; the run is named where there are several."""
    is_one = len({column.run for column in comparison.columns}) == 1
    return {c: c.subject if is_one else f"{c.run}: {c.subject}" for c in comparison.columns}


def _label(line: Line) -> str:
    from loricate.report.words import condition_label

    return condition_label(line.condition)


def _as_json(comparison: Comparison) -> dict[str, object]:
    rows = [
        {
            **asdict(line.condition),
            "metric": line.metric,
            "values": [
                {"run": column.run, "subject": column.subject, "n": a.n}
                | {"value": a.value, "low": a.low, "high": a.high, "level": a.level}
                for column, a in row.items()
            ],
        }
        for line, row in comparison.rows.items()
    ]
    return {
        "columns": [column._asdict() for column in comparison.columns],
        "rows": rows,
        "paired": [
            asdict(t) | {"first": t.first._asdict(), "second": t.second._asdict()}
            for t in comparison.paired
        ],
        "differences": [asdict(each) for each in comparison.differences],
        "quick": list(comparison.quick),
        "unreliable": {name: list(errors) for name, errors in comparison.unreliable.items()},
    }
