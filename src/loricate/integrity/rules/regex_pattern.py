"""Patterns in configs that loaders run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

from loricate.integrity._settings import JSON_OR_HEADER, settings_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["RegexPattern"]

_SCALES = ("rank_pattern", "alpha_pattern")
_TARGETS = ("target_modules", "exclude_modules", "layers_pattern")
# Names, lists of names in groups, and groups that may be absent, none of which can repeat.
_PLAIN = re.compile(r"\^?[\w\-\\.|?:()]*\$?", re.ASCII)
_REPEATS = ("*", "+", "{")


@final
@dataclass(frozen=True, kw_only=True)
class RegexPattern(Rule):
    r"""Regular expressions in a config that are more than names of modules.

    Fires on keys of ``rank_pattern`` and ``alpha_pattern``, and on ``target_modules``,
    ``exclude_modules`` and ``layers_pattern`` where they are one text. PEFT runs each against
    every module: a repetition of repetitions, such as ``(a+)+$``, keeps it busy for years, and a
    loose one sets the scale of layers nobody named. Nothing is run here.

    Severity: high where repetitions are nested, medium for other patterns of ranks and scales, low
    for other patterns of targets, which trainers write in good faith.

    Cannot see patterns that are slow without nesting, such as many ``.*`` in a row.

    Args:
        max_length: Characters from which on a list of plain names is a finding as well.
    """

    applies_to: ClassVar[frozenset[Content]] = JSON_OR_HEADER

    max_length: int = 1_000_000

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each pattern."""
        for key, value, where in settings_of(subject):
            for pattern in _patterns(key, value):
                is_explosive = _nests_repeats(pattern)
                if is_explosive or len(pattern) > self.max_length or not _PLAIN.fullmatch(pattern):
                    mild = Severity.MEDIUM if key in _SCALES else Severity.LOW
                    yield self.finding(
                        subject,
                        Severity.HIGH if is_explosive else mild,
                        f"{pattern[:80]!r} is a regular expression, which loaders run",
                        advice="replace it by the full names of modules",
                        where=where,
                        n_characters=len(pattern),
                    )


def _patterns(key: str, value: Any) -> list[str]:
    if key in _SCALES and isinstance(value, dict):
        return list(value)
    if key in _TARGETS and isinstance(value, str):
        return [value]
    return [each for each in value if isinstance(each, str)] if _is_listed(key, value) else []


def _is_listed(key: str, value: Any) -> bool:
    # Names in a list of targets are compared; only patterns of layers are run.
    return key == "layers_pattern" and isinstance(value, list)


def _nests_repeats(pattern: str) -> bool:
    """Whether a repeated group holds a repetition or alternatives."""
    risky = [False]
    text = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]])*\]", "x", pattern, flags=re.DOTALL)
    for i, each in enumerate(text):
        if each == "(":
            risky.append(False)
        elif each == ")" and len(risky) > 1:
            inner = risky.pop()
            if inner and text[i + 1 : i + 2] in _REPEATS and i + 1 < len(text):
                return True
            risky[-1] |= inner
        elif each in "*+{|":
            risky[-1] = True
    return False
