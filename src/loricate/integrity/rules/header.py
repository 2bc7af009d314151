"""Headers that two programs may read in two ways, or that hide something."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final
from unicodedata import normalize
from urllib.parse import unquote

from loricate.basics.errors import HostileFileError, UnsupportedError
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.raw_header import Pairs, RawHeader
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["Header"]

_FIELDS = {"dtype", "shape", "data_offsets"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_SLASH = r"[/\\\u2044\u2215\u29f5\u29f8]"
_PATH = re.compile(
    rf"(?:^|{_SLASH})\.\.+(?:{_SLASH}|$)"  # leads upwards
    rf"|^\s*(?:{_SLASH}|[a-z]:{_SLASH}|(?:~\w*|\$\w+|%\w+%)(?:{_SLASH}|$))"  # begins at a root
    rf"|:{_SLASH}{{2}}|^\s*(?:file|data|javascript|vbscript|jar|mailto):"  # an address
    r"|<[a-z/!]|\$[{(]",  # markup
    re.IGNORECASE,
)
# Names of tokens and of LoRAs in prompts look like tags, and keys of JSON Schema like variables.
_PLAIN_NAME = re.compile(r"<(?P<word>[\w-]+)(?::[\w.-]+)*>(?:_\d+)?|\$(?:schema|id|comment)")
_TAGS = {
    *("a", "applet", "audio", "base", "body", "button", "canvas", "embed", "form", "frame"),
    *("frameset", "head", "html", "iframe", "image", "img", "input", "link", "listing", "marquee"),
    *("math", "meta", "noembed", "noframes", "noscript", "object", "option", "plaintext"),
    *(
        "script",
        "select",
        "source",
        "style",
        "svg",
        "template",
        "textarea",
        "title",
        "video",
        "xmp",
    ),
}
_MAX_ESCAPED = 3
_REWRITE = "write the file anew with the safetensors library, or do not use it"


@final
@dataclass(frozen=True, kw_only=True)
class Header(Rule):
    """Oddities in the header of a safetensors file that loaders let through.

    Fires on files the strict reader refuses (high), names that occur twice (high, as one parser
    takes the first and another the last), names with control characters or markup, that lead out
    of a folder or are addresses (high; a token such as ``<cat-toy>`` is none of these), whitespace
    in front or unusual whitespace between (medium, a hidden channel), fields of tensors that no
    specification knows (medium), and padding (low). The strict reader also refuses more than
    65,536 tensors, several times what any model has, and a header of more than they need: parsing
    either can take any amount of memory. It reads the raw JSON, so it sees what parsers resolve. It
    does not see a channel in the numbers or the order of tensors.

    Args:
        max_padding: Blanks in a row that writers may need, in bytes.
        max_shown: Findings of one kind that are listed one by one.

    Source: What safetensors 0.8 accepts was found by running it.
    """

    applies_to: ClassVar[frozenset[Content]] = frozenset({Content.SAFETENSORS})

    max_padding: int = 64
    max_shown: int = 5

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """What is odd in the header."""
        if isinstance(subject.refusal, UnsupportedError):
            yield self.not_verified(subject, str(subject.refusal))
        header = subject.header
        if header is None:
            yield self.not_verified(subject, "the header cannot be read")
            return
        yield from self._repeated(subject, header)
        yield from self._names(subject, header)
        yield from self._fields(subject, header)
        yield from self._blanks(subject, header)
        if isinstance(subject.refusal, HostileFileError):
            yield self.finding(
                subject,
                Severity.HIGH,
                f"no strict reader takes this file: {subject.refusal.reason}",
                advice="download it again and compare its digest; do not use it otherwise",
                header_bytes=header.length,
                file_bytes=header.size,
            )

    def _repeated(self, subject: Subject, header: RawHeader) -> Iterator[Finding]:
        doubles = [(name, "the file") for name in header.entries.repeated()]
        for name, entry in header.entries:
            if isinstance(entry, Pairs):
                doubles += [(key, name) for key in entry.repeated()]
        shown = [
            (key, f"{key!r} stands twice in {place!r}, so programs read different files")
            for key, place in doubles
        ]
        yield from self._listed(subject, Severity.HIGH, "n_repeated", shown)

    def _names(self, subject: Subject, header: RawHeader) -> Iterator[Finding]:
        names = [name for name, _ in header.tensors] + [key for key, _ in header.metadata]
        odd = [n for n in names if not n or _is_odd(n) or _is_odd(_plain(n))]
        what = "a path, an address, markup or hidden characters, and no plain name"
        shown = [(n, f"{n!r} is {what}") for n in odd]
        yield from self._listed(subject, Severity.HIGH, "n_names", shown)

    def _fields(self, subject: Subject, header: RawHeader) -> Iterator[Finding]:
        shown = [
            (name, f"{name!r} has a field {key!r} that the format does not know")
            for name, entry in header.tensors
            for key in _unknown(entry)
        ]
        yield from self._listed(subject, Severity.MEDIUM, "n_fields", shown)

    def _listed(
        self, subject: Subject, severity: Severity, counted: str, found: list[tuple[str, str]]
    ) -> Iterator[Finding]:
        """A finding for each (place, message), up to the limit, with the number of all."""
        for where, message in found[: self.max_shown]:
            evidence = {counted: len(found)}
            yield self.finding(subject, severity, message, advice=_REWRITE, where=where, **evidence)

    def _blanks(self, subject: Subject, header: RawHeader) -> Iterator[Finding]:
        text = header.text
        if text and not text.startswith(b"{") and header.error is None:
            yield self.finding(
                subject,
                Severity.MEDIUM,
                "whitespace in front of the header, which the format forbids",
                advice=_REWRITE,
                n_bytes=len(text) - len(text.lstrip()),
            )
        longest = max(header.blanks(), key=len, default=b"")
        if len(longest) > self.max_padding:
            is_plain = not longest.strip(b" ")
            yield self.finding(
                subject,
                Severity.LOW if is_plain else Severity.MEDIUM,
                f"{len(longest)} blanks in a row in the header, which can carry anything",
                advice=_REWRITE,
                n_bytes=len(longest),
            )


def _is_odd(name: str) -> bool:
    plain = _PLAIN_NAME.fullmatch(name)
    if plain and str(plain["word"]).lower() not in _TAGS:
        return False
    return bool(_CONTROL.search(name) or _PATH.search(name))


def _plain(name: str) -> str:
    """A name as it is after others decoded it: letters of full width, escapes of addresses."""
    for _ in range(_MAX_ESCAPED):
        name = unquote(normalize("NFKC", name))
    return name


def _unknown(entry: Any) -> list[str]:
    return [key for key, _ in entry if key not in _FIELDS] if isinstance(entry, Pairs) else []
