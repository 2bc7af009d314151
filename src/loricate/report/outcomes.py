"""What checks came to, in the form that reports for machines are made of."""

from dataclasses import dataclass
from typing import final

from loricate.integrity.finding import Severity

__all__ = ["Outcome", "printable"]


@final
@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one check of one thing came to.

    Args:
        rule: Key of the check, such as ``non_finite`` or ``max_psnr_drop``.
        level: How grave it is if it does not hold.
        path: File that was checked.
        message: What was found, or why nothing could be.
        where: Place in the file, such as a module.
        passed: Whether the check holds; ``None`` where it could not be made.
    """

    rule: str
    level: Severity
    path: str
    message: str
    where: str | None = None
    passed: bool | None = False


def printable(text: str) -> str:
    """Text with everything a terminal or an XML reader would act on or choke at spelled out.

    Args:
        text: Anything, such as names out of a hostile file.

    Returns:
        The same text where it is harmless; line breaks are spelled out too.
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
