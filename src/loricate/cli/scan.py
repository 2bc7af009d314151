"""``loricate scan``: what is wrong with model files, and what nobody can tell."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loricate.cli._adapters import OneThread
from loricate.cli._formats import format_options, show
from loricate.cli.helpers import print_table, progress_report

if TYPE_CHECKING:
    from loricate.cli.exits import ExitCode
    from loricate.integrity.scan import Judged, ScanReport

__all__ = ["command"]

_SEVERITIES = ("info", "low", "medium", "high", "critical")


@click.command(cls=OneThread)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--base",
    type=click.Path(exists=True, path_type=Path),
    metavar="MODEL",
    help="Model the adapters are for; without it some rules cannot judge.",
)
@click.option(
    "--fail-on",
    type=click.Choice(_SEVERITIES),
    default="high",
    show_default=True,
    help="Least severity that makes the verdict negative.",
)
@format_options
def command(
    paths: tuple[Path, ...],
    base: Path | None,
    fail_on: str,
    form: str | None,
    out: Path | None,
) -> ExitCode:
    """Check model files for pickles, tricks and updates out of proportion.

    PATHS are files and folders: safetensors, PEFT and diffusers folders, .ckpt, .bin, .pt and
    configs. Nothing is unpickled, imported or run. Exit codes: 0 no finding at or above
    --fail-on, 1 a finding, 4 nothing could be judged, or not every update of an adapter.
    `loricate ls rules` lists the rules.
    """
    from loricate.cli.exits import for_outcome
    from loricate.integrity.finding import Severity
    from loricate.integrity.subject import CONFIGS
    from loricate.recipes._out import require_outside
    from loricate.recipes.scan import outcomes, scan

    if out is not None:
        beside = [path.with_name(name) for path in paths if path.is_file() for name in CONFIGS]
        require_outside(out, [*paths, *beside, *([base] if base else [])])
    with progress_report() as observer:
        report = scan(paths, base=base, observer=observer)
    threshold = Severity(fail_on)
    verdict = report.outcome(threshold)
    if form is None and out is None:
        _print(report, verdict)
    else:
        # Alerts show all findings, a server of builds those that break it.
        least = threshold if form == "junit" else Severity.INFO
        listed = outcomes(report, fail_on=least)
        subjects = [asdict(each) for each in report.subjects] if form in (None, "json") else []
        extra = {"fail_on": fail_on, "subjects": subjects}
        show(listed, verdict, suite="loricate scan", form=form, out=out, **extra)
    return for_outcome(verdict)


def _print(report: ScanReport, verdict: str) -> None:
    for each in sorted(report.subjects, key=_gravity):
        if each.findings:
            _print_findings(each)
    clean = [each for each in report.subjects if each.is_judged and not each.findings]
    if clean:
        rows = [
            (_shown(each.path), each.content, each.sha256, ", ".join(each.passed)) for each in clean
        ]
        print_table(("file", "content", "sha256", "rules passed"), rows, title="Nothing found")
    if report.not_verified:
        _print_not_verified(report)
    counts = Counter(str(each.severity) for each in report.findings)
    listed = [f"{counts[each]} {each}" for each in reversed(_SEVERITIES) if counts[each]]
    n_judged = sum(each.is_judged for each in report.subjects)
    click.echo(
        f"{verdict}: {n_judged} of {len(report.subjects)} files judged, "
        f"findings: {', '.join(listed) or 'none'}, not verified: {len(report.not_verified)}"
    )


def _print_findings(judged: Judged) -> None:
    rows = [
        (str(each.severity), each.rule, _shown(each.where or ""), _shown(each.message), each.advice)
        for each in judged.findings
    ]
    columns = ("severity", "rule", "where", "what was found", "what to do")
    title = f"{_shown(judged.path)} ({judged.content}, sha256 {judged.sha256})"
    print_table(columns, rows, title=title)
    click.echo(f"passed: {', '.join(judged.passed) or 'none'}\n")


def _print_not_verified(report: ScanReport) -> None:
    paths: dict[tuple[str, str], list[str]] = {}
    for each in report.not_verified:
        paths.setdefault((each.rule, each.why), []).append(each.path)
    rows = [
        (rule, len(found), _shown(found[0]), _shown(why)) for (rule, why), found in paths.items()
    ]
    print_table(("rule", "times", "first in", "why"), rows, title="Not verified")


def _shown(text: str) -> str:
    from loricate.report.outcomes import printable

    return printable(text)


def _gravity(judged: Judged) -> tuple[int, str]:
    return -max((each.severity.level for each in judged.findings), default=-1), judged.path
