"""The one place that decides how ``loricate`` leaves.

Python and click both leave with 1 on an unexpected exception, which a caller would read as a
negative verdict; here that is 3.
"""

from collections.abc import Iterable
from enum import IntEnum

import click

from loricate.basics.errors import ConfigError, HostileFileError, IntegrityError

__all__ = ["ExitCode", "for_error", "for_outcome", "over_items"]


class ExitCode(IntEnum):
    """What a caller may conclude."""

    PASS = 0
    NEGATIVE = 1
    USAGE = 2
    COULD_NOT_RUN = 3
    INCONCLUSIVE = 4


_OUTCOMES = {
    "pass": ExitCode.PASS,
    "fail": ExitCode.NEGATIVE,
    "inconclusive": ExitCode.INCONCLUSIVE,
}
_JUDGES_OF_FILES = ("scan", "verify")
_GRAVEST_FIRST = (ExitCode.NEGATIVE, ExitCode.COULD_NOT_RUN, ExitCode.INCONCLUSIVE)


def for_outcome(outcome: str) -> ExitCode:
    """Exit code of a verdict.

    Args:
        outcome: ``"pass"``, ``"fail"`` or ``"inconclusive"``.

    Returns:
        0, 1 or 4.
    """
    return _OUTCOMES[outcome]


def for_error(error: BaseException, command: str | None = None) -> ExitCode:
    """Exit code of a run that ended in an exception.

    Args:
        error: What was raised.
        command: The command that was running, if one was.

    Returns:
        1 where the error is itself the answer to what was asked, 2 for a mistake in the
        question, 3 for everything else.
    """
    match error:
        case ConfigError() | click.UsageError():
            return ExitCode.USAGE
        case IntegrityError():
            return ExitCode.NEGATIVE
        case HostileFileError() if command in _JUDGES_OF_FILES:
            return ExitCode.NEGATIVE
    return ExitCode.COULD_NOT_RUN


def over_items(codes: Iterable[ExitCode]) -> ExitCode:
    """Exit code of several items: the first of 1, 3, 4, 0 that occurred.

    Args:
        codes: One code for each item.

    Returns:
        The gravest; 4 where there was no item, as nothing was shown.
    """
    seen = set(codes)
    if not seen:
        return ExitCode.INCONCLUSIVE
    return next((code for code in _GRAVEST_FIRST if code in seen), ExitCode.PASS)
