"""JUnit: what a CI server counts is what happened, and hostile names do not break the XML."""

from xml.etree import ElementTree

from loricate.integrity.finding import Severity
from loricate.report.junit import junit
from loricate.report.outcomes import Outcome


def outcome(**fields):
    defaults = {"rule": "pickle", "level": Severity.HIGH, "path": "x.pt", "message": "bad"}
    return Outcome(**{**defaults, **fields})


def test_counts_are_those_of_the_outcomes() -> None:
    listed = [
        outcome(),
        outcome(passed=True, message="norm 3", where="to_q"),
        outcome(passed=None, message="no base"),
        outcome(passed=True, message=""),
    ]
    root = ElementTree.fromstring(junit(listed, suite="loricate scan"))
    suite = root.find("testsuite")
    assert suite.attrib == {
        "name": "loricate scan",
        "tests": "4",
        "failures": "1",
        "errors": "0",
        "skipped": "1",
    }
    failed, mild, skipped, passed = suite
    assert failed.find("failure").attrib == {"message": "bad", "type": "high"}
    assert (mild.get("name"), mild.findtext("system-out")) == ("pickle [to_q]", "norm 3")
    assert skipped.find("skipped").get("message") == "not verified: no base"
    assert (passed.attrib, len(passed)) == ({"classname": "x.pt", "name": "pickle"}, 0)


def test_hostile_text_stays_text() -> None:
    text = "</testcase>\x00\x1b[2J&\ud800"
    document = junit([outcome(message=text, path=text, where=text)], suite="s")
    (case,) = ElementTree.fromstring(document.encode()).iter("testcase")
    shown = r"</testcase>\x00\x1b[2J&\ud800"
    assert (case.get("classname"), case.find("failure").get("message")) == (shown, shown)
