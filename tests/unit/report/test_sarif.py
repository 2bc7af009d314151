"""SARIF: what code hosts ask of a file they upload, and what an alert says."""

import json

import pytest

from loricate.integrity.finding import Severity
from loricate.report.outcomes import Outcome, printable
from loricate.report.sarif import sarif


def outcome(**fields):
    defaults = {"rule": "pickle", "level": Severity.HIGH, "path": "a b/x#1.pt", "message": "bad"}
    return Outcome(**{**defaults, **fields})


def test_every_result_refers_to_its_rule_and_file() -> None:
    listed = [
        outcome(),
        outcome(rule="header", level=Severity.MEDIUM, where="unet.to_q"),
        outcome(rule="header", passed=None, message="no base"),
        outcome(rule="scale", passed=True),
    ]
    document = sarif(listed)
    run = document["runs"][0]
    assert document["version"] == "2.1.0"
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == ["pickle", "header"]
    assert [rules[each["ruleIndex"]] for each in run["results"]] == ["pickle", "header"]
    assert [each["level"] for each in run["results"]] == ["error", "warning"]
    first, second = (each["locations"][0] for each in run["results"])
    assert first == {"physicalLocation": {"artifactLocation": {"uri": "a%20b/x%231.pt"}}}
    assert second["logicalLocations"] == [{"fullyQualifiedName": "unet.to_q"}]
    notes = run["invocations"][0]["toolExecutionNotifications"]
    assert [(n["associatedRule"], n["message"]["text"]) for n in notes] == [
        ({"id": "header", "index": 1}, "not verified: no base")
    ]
    json.dumps(document)


def test_the_score_of_a_rule_is_that_of_its_gravest_result() -> None:
    run = sarif([outcome(level=Severity.LOW), outcome(level=Severity.CRITICAL)])["runs"][0]
    (rule,) = run["tool"]["driver"]["rules"]
    assert rule["properties"]["security-severity"] == "9.5"
    assert [each["level"] for each in run["results"]] == ["note", "error"]


def test_absolute_paths_and_bytes_that_are_no_text_become_addresses() -> None:
    results = sarif([outcome(path="/tmp/ä"), outcome(path="\udcff.pt")])["runs"][0]["results"]
    uris = [e["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for e in results]
    assert uris == ["file:///tmp/%C3%A4", "%FF.pt"]


def test_nothing_checked_is_a_valid_run() -> None:
    run = sarif([])["runs"][0]
    assert run["results"] == run["tool"]["driver"]["rules"] == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü", "plain äöü"),
        ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
        ("two\nlines\x00", r"two\nlines\x00"),
        ("‮txt.exe\u200b", r"\u202etxt.exe\u200b"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_act_on_is_spelled_out(text, shown) -> None:
    assert printable(text) == shown
