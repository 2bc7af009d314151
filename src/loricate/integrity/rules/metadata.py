"""Text in a header that acts where it is shown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["Metadata"]


class _Sign(NamedTuple):
    severity: Severity
    what: str
    pattern: re.Pattern[str]


# Every repetition is bounded, so that no text is slow to search.
_SIGNS = (
    _Sign(
        Severity.MEDIUM,
        "HTML that runs code",
        re.compile(
            r"<\s{0,9}/?(script|iframe|object|embed|base|meta|form)\b"
            r"|<[a-z][^<>]{0,400}[\s/'\"]on[a-z]{3,20}\s{0,9}=",
            re.IGNORECASE,
        ),
    ),
    _Sign(
        Severity.MEDIUM,
        "an address that runs code",
        re.compile(r"\b(javascript|vbscript):|\bdata:(text/html|image/svg)", re.IGNORECASE),
    ),
    _Sign(
        Severity.MEDIUM,
        "control characters, which terminals obey or which turn text around",
        re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"),
    ),
    _Sign(
        Severity.LOW,
        "characters without width",
        re.compile("[\u200b\u200c\u200e\u200f\u2060-\u2064\ufeff\u00ad]"),
    ),
    _Sign(Severity.LOW, "an address", re.compile(r"\b(https?|ftp|file)://", re.IGNORECASE)),
)
# What ModelSpec and trainers put an address into, and never open.
_EXPECTED = re.compile(r"(modelspec\.|ss_).*")
_PLAIN_ADDRESS = re.compile(r"https://[\w.\-]+(/[\w.\-~/#?=&%+]*)?", re.ASCII)


@final
@dataclass(frozen=True, kw_only=True)
class Metadata(Rule):
    """Text in the header of a safetensors file that acts where somebody shows it.

    Fires on HTML and addresses that run code, control characters (medium), characters without
    width, addresses, and values beyond a size (low). A ``modelspec`` entry that is nothing but one
    address over HTTPS is what it should be. Web pages, terminals and file managers show metadata,
    and not all of them escape it.

    Cannot see lies: anybody can write any name, author or hash into a header.

    Args:
        max_bytes: Characters of one value, without the words and pictures trainers keep.
    """

    applies_to: ClassVar[frozenset[Content]] = frozenset({Content.SAFETENSORS})

    max_bytes: int = 1 << 20

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each kind of text, at its first place."""
        texts = list(_texts(subject))
        for severity, what, pattern in _SIGNS:
            places = [key for key, text in texts if pattern.search(text)]
            if places:
                yield self.finding(
                    subject,
                    severity,
                    f"metadata holds {what}",
                    advice="show it escaped, and follow no address in it",
                    where=places[0],
                    n_places=len(places),
                )
        large = [(key, len(text)) for key, text in texts if len(text) > self.max_bytes]
        for key, length in (each for each in large if not _EXPECTED.fullmatch(each[0])):
            yield self.finding(
                subject,
                Severity.LOW,
                f"metadata of {length} characters, which can carry anything",
                advice="write the file anew without it",
                where=key,
                n_characters=length,
            )


def _texts(subject: Subject) -> Iterator[tuple[str, str]]:
    for key, text in subject.header.metadata if subject.header is not None else ():
        yield key, key  # shown as well as the text
        is_address = key.startswith("modelspec.") and _PLAIN_ADDRESS.fullmatch(str(text))
        if isinstance(text, str) and not is_address:
            yield key, text
