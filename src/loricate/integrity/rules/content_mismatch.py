"""Files whose name says one thing and whose bytes another."""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.integrity._suffixes import PICKLES, beginning_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["ContentMismatch"]

# Nobody expects code in these.
_HARMLESS = (
    *(".safetensors", ".json", ".txt", ".md", ".yaml", ".yml", ".toml", ".csv", ".html"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif"),
)
_MAX_VALUE = 1 << 16


@final
@dataclass(frozen=True, kw_only=True)
class ContentMismatch(Rule):
    """A file that is not what its extension says.

    Fires on pickles under names of harmless files and on safetensors files that are zip archives
    or pickles as well (high), on ``.safetensors`` and ``.json`` files that hold something else and
    on safetensors files under names of pickles (medium), and on safetensors files under other names
    (low). Loaders choose by name, by content, or by trying, so such a file is one thing to a
    scanner and another to a loader.

    Cannot see a second meaning that no signature gives away.
    """

    applies_to: ClassVar[frozenset[Content]] = frozenset(Content) - {Content.FOLDER}
    looks_inside: ClassVar[bool] = False

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """At most one finding."""
        mismatch = _mismatch(subject)
        if mismatch is not None:
            severity, message = mismatch
            yield self.finding(
                subject,
                severity,
                message,
                advice="fetch the file again from its author; do not rename it and load it",
                content=str(subject.content),
            )


def _mismatch(subject: Subject) -> tuple[Severity, str] | None:
    suffix = subject.path.suffix.lower()
    match subject.content:
        case Content.SAFETENSORS if zipfile.is_zipfile(subject.path):
            return Severity.HIGH, "the file is a safetensors file and a zip archive at once"
        case Content.SAFETENSORS if subject.pickled.imports:
            return Severity.HIGH, "the file is a safetensors file and a pickle at once"
        case Content.SAFETENSORS if suffix in PICKLES:
            return Severity.MEDIUM, f"a safetensors file is named {suffix!r}"
        case Content.SAFETENSORS if suffix in _HARMLESS and suffix != ".safetensors":
            return Severity.LOW, f"a safetensors file is named {suffix!r}"
        case Content.PICKLE if suffix in _HARMLESS:
            return Severity.HIGH, f"a pickle or zip archive is named {suffix!r}"
        case Content.OTHER | Content.JSON if suffix == ".safetensors":
            return Severity.MEDIUM, f"{_kind(subject)} is named '.safetensors'"
        case Content.OTHER if suffix == ".json" and not _is_lone_value(subject):
            return Severity.MEDIUM, f"{_kind(subject)} is named '.json'"
    return None


def _is_lone_value(subject: Subject) -> bool:
    """Whether a file is JSON that is neither an object nor a list, such as a number."""
    with subject.path.open("rb") as file:
        content = file.read(_MAX_VALUE + 1)
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return len(content) <= _MAX_VALUE


def _kind(subject: Subject) -> str:
    return beginning_of(subject.path) or "something of another format"
