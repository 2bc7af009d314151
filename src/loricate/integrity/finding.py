"""What a check of a file found, and what it could not judge."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import final

__all__ = ["Finding", "NotVerified", "Severity"]


class Severity(StrEnum):
    """How much harm a finding can do; compare by ``level``, as words compare by letters."""

    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def level(self) -> int:
        """Place in the order of severities, 0 for ``INFO``."""
        return tuple(Severity).index(self)


@final
@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something in a file that a user has to know.

    Args:
        rule: Key of the rule.
        severity: How much harm it can do.
        path: The file, as it was reached.
        message: What was found, in words.
        advice: What to do about it.
        where: Module, tensor or key in the file.
        evidence: Numbers and texts the judgement rests on.
    """

    rule: str
    severity: Severity
    path: str
    message: str
    advice: str
    where: str | None = None
    evidence: Mapping[str, float | int | str] = field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True)
class NotVerified:
    """Something a rule could not judge, which is not the same as nothing found.

    Args:
        rule: Key of the rule.
        path: The file, as it was reached.
        why: Reason, in words.
        where: Module, tensor or key in the file.
    """

    rule: str
    path: str
    why: str
    where: str | None = None
