"""Outcomes as JUnit XML, which every CI server reads."""

from collections.abc import Sequence
from xml.etree import ElementTree

from loricate.report.outcomes import Outcome, printable

__all__ = ["junit"]


def junit(outcomes: Sequence[Outcome], *, suite: str) -> str:
    """One test case for every outcome.

    A check that does not hold is a failure, one that could not be made is skipped, and what a
    check that holds has to say is printed text.

    Args:
        outcomes: What checks came to.
        suite: Name of the suite, such as ``loricate scan``.

    Returns:
        A document.
    """
    cases = [_case(each) for each in outcomes]
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.find("skipped") is not None for case in cases)),
    }
    root = ElementTree.Element("testsuites", counts)
    ElementTree.SubElement(root, "testsuite", {"name": suite, **counts}).extend(cases)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(outcome: Outcome) -> ElementTree.Element:
    place = f" [{outcome.where}]" if outcome.where else ""
    name = printable(f"{outcome.rule}{place}")
    case = ElementTree.Element("testcase", {"classname": printable(outcome.path), "name": name})
    message = printable(outcome.message)
    if outcome.passed is None:
        ElementTree.SubElement(case, "skipped", {"message": f"not verified: {message}"})
    elif not outcome.passed:
        ElementTree.SubElement(case, "failure", {"message": message, "type": str(outcome.level)})
    elif message:
        ElementTree.SubElement(case, "system-out").text = message
    return case
