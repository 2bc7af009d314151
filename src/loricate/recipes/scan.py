"""Files held to every rule, and what came of it for people and for machines."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from loricate.integrity.finding import Severity
from loricate.integrity.scan import Judged, ScanReport
from loricate.integrity.scan import scan as scan_files
from loricate.report.outcomes import Outcome

__all__ = ["outcomes", "scan"]


def scan(
    paths: Sequence[Path],
    *,
    base: Path | None = None,
    observer: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> ScanReport:
    """Check files and everything in folders against every registered rule.

    Args:
        paths: Files and folders.
        base: Model that adapters are held to.
        observer: Called with (stage, done, total) after every file.

    Raises:
        LoricateError: The base cannot be read.
    """
    return scan_files(paths, base=base, observer=observer)


def outcomes(report: ScanReport, *, fail_on: Severity) -> tuple[Outcome, ...]:
    """One outcome for every finding, for what could not be verified, and for what is in order.

    Args:
        report: What a scan found.
        fail_on: The least severity that fails; a finding below is a check that holds, and says so.
    """
    return tuple(each for subject in report.subjects for each in _of_file(subject, fail_on))


def _of_file(judged: Judged, fail_on: Severity) -> Iterator[Outcome]:
    for finding in judged.findings:
        passed = finding.severity.level < fail_on.level
        note = f"{finding.severity}: " if passed else ""
        yield Outcome(
            rule=finding.rule,
            level=finding.severity,
            path=finding.path,
            message=f"{note}{finding.message}; {finding.advice}",
            where=finding.where,
            passed=passed,
        )
    for each in judged.not_verified:
        yield Outcome(
            rule=each.rule,
            level=Severity.INFO,
            path=each.path,
            message=each.why,
            where=each.where,
            passed=None,
        )
    for rule in judged.passed:
        yield Outcome(rule=rule, level=Severity.INFO, path=judged.path, message="", passed=True)
