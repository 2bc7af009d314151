"""Pickles, which run code when they are loaded."""

import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, final

from picklescan.scanner import SafetyLevel, scan_pickle_bytes

from loricate.integrity._opcodes import Import
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["Pickle"]


@final
@dataclass(frozen=True, kw_only=True)
class Pickle(Rule):
    """Pickles that import anything but what plain tensors need.

    Reads the opcodes of every pickle in a file, in what is compressed, in zip and tar archives
    inside of each other and in object arrays of numpy, found by content and not by name, and never
    loads one. A safetensors file is read as a pickle too, as it may be both. Fires where
    ``picklescan --strict`` does: on every import outside of its short allow-list. Text in which
    letters happen to be opcodes is no pickle unless they call something.

    Severity: critical for imports known to run code, high for all others.

    Cannot see what allowed imports do with their arguments, or pickles that are data of pickles.
    What is compressed and what is in archives that are not opened is said to be not verified.

    Args:
        max_shown: Imports that are listed one by one.

    Source: picklescan 1.0; the design page compares it with its peers.
    """

    applies_to: ClassVar[frozenset[Content]] = frozenset(
        {Content.PICKLE, Content.OTHER, Content.SAFETENSORS}
    )

    # A pickle that nobody could follow may be made for that.
    is_essential: ClassVar[bool] = True

    max_shown: int = 10

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each import, and what could not be read."""
        pickled = subject.pickled
        graded = _graded(pickled.imports)
        for each, severity in list(graded.items())[: self.max_shown]:
            place = f"{each.module}.{each.name}"
            inside = {"inside": name} if (name := pickled.imports[each]) else {}
            yield self.finding(
                subject,
                severity,
                f"loading this file imports {place}".encode("ascii", "backslashreplace").decode(),
                advice="do not load it; ask for a safetensors file",
                where=place,
                n_imports=len(graded),
                **inside,
            )
        # Any number of tensors may begin like something else.
        if subject.content is not Content.SAFETENSORS:
            for obstacle in pickled.obstacles:
                yield self.not_verified(subject, obstacle.why, where=obstacle.name or None)


def _graded(imports: Mapping[Import, str]) -> dict[Import, Severity]:
    """Imports that are not allowed, those known to be harmful first."""
    stream = b"".join(_as_text(each.module) + _as_text(each.name) + b"\x93" for each in imports)
    with _silenced():
        result = scan_pickle_bytes(io.BytesIO(b"\x80\x04" + stream + b"."), "file", strict=False)
    # Strict is what is not allowed, whether or not it is known to be harmful.
    found = {
        Import(each.module, each.name): each.safety is SafetyLevel.Dangerous
        for each in result.globals
        if each.safety is not SafetyLevel.Innocuous
    }
    ordered = sorted(found.items(), key=lambda item: (not item[1], item[0]))
    return {each: Severity.CRITICAL if is_known else Severity.HIGH for each, is_known in ordered}


def _as_text(name: str) -> bytes:
    text = name.encode("utf-8", "surrogatepass")
    return b"X" + len(text).to_bytes(4, "little") + text


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep what picklescan logs from being printed."""
    log = logging.getLogger("picklescan")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was_disabled
