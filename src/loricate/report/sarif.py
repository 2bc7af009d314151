"""Outcomes as SARIF 2.1.0, which code hosts show as alerts."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loricate.integrity.finding import Severity
from loricate.report.outcomes import Outcome, printable

__all__ = ["sarif"]

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_LEVELS = {
    Severity.INFO: "note",
    Severity.LOW: "note",
    Severity.MEDIUM: "warning",
    Severity.HIGH: "error",
    Severity.CRITICAL: "error",
}
# Code hosts sort alerts by a number out of 10, as CVSS has it.
_SCORES = {
    Severity.INFO: "0.0",
    Severity.LOW: "3.0",
    Severity.MEDIUM: "5.0",
    Severity.HIGH: "8.0",
    Severity.CRITICAL: "9.5",
}


def sarif(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """One run with a result for every check that does not hold.

    What could not be checked is a notification of the run, as it is no alert about the file;
    checks that hold are left out.

    Args:
        outcomes: What checks came to.

    Returns:
        A document to be written as JSON.
    """
    failed = [each for each in outcomes if each.passed is False]
    rules = list(dict.fromkeys(each.rule for each in outcomes if each.passed is not True))
    driver = {
        "name": "loricate",
        "version": version("loricate"),
        "rules": [_rule(rule, [each for each in failed if each.rule == rule]) for rule in rules],
    }
    notes = [_notification(each, rules) for each in outcomes if each.passed is None]
    invocation = {"executionSuccessful": True, "toolExecutionNotifications": notes}
    results = [_result(each, rules) for each in failed]
    run = {"tool": {"driver": driver}, "invocations": [invocation], "results": results}
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(key: str, failed: Sequence[Outcome]) -> dict[str, Any]:
    gravest = max((each.level for each in failed), key=lambda each: each.level, default=None)
    score = {} if gravest is None else {"security-severity": _SCORES[gravest]}
    return {
        "id": key,
        "shortDescription": {"text": key.replace("_", " ")},
        "properties": {"tags": ["security"], **score},
    }


def _result(outcome: Outcome, rules: Sequence[str]) -> dict[str, Any]:
    return {
        "ruleId": outcome.rule,
        "ruleIndex": rules.index(outcome.rule),
        "level": _LEVELS[outcome.level],
        "message": {"text": printable(outcome.message)},
        "locations": [_location(outcome)],
        "properties": {"severity": str(outcome.level)},
    }


def _notification(outcome: Outcome, rules: Sequence[str]) -> dict[str, Any]:
    return {
        "level": "note",
        "message": {"text": f"not verified: {printable(outcome.message)}"},
        "locations": [_location(outcome)],
        "associatedRule": {"id": outcome.rule, "index": rules.index(outcome.rule)},
    }


def _location(outcome: Outcome) -> dict[str, Any]:
    artifact = {"artifactLocation": {"uri": _uri(outcome.path)}}
    place = [{"fullyQualifiedName": printable(outcome.where)}] if outcome.where else []
    return {"physicalLocation": artifact, **({"logicalLocations": place} if place else {})}


def _uri(path: str) -> str:
    if Path(path).is_absolute():
        return Path(path).as_uri()
    return quote(Path(path).as_posix().encode(errors="surrogateescape"))
