"""The header of a safetensors file as it stands there, oddities included.

Strict readers refuse or resolve what two parsers may read in two ways; a check has to see it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from loricate.adapters.tensors import MAX_HEADER_BYTES, TooMuchError, bounded_json

__all__ = ["METADATA", "Pairs", "RawHeader", "is_safetensors", "read_header"]

_SUFFIX = ".safetensors"

METADATA = "__metadata__"
"""Name of the entry that is no tensor."""

_WHITESPACE = b" \t\n\r"
# Possessive, so that no text takes time or memory to give back what it matched.
_STRING_OR_BLANKS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[ \t\n\r]++', re.DOTALL)
_PEEK = 1 << 16
# Eight letters of text in front of a brace are larger.
_NO_LENGTH = 1 << 48


class Pairs(tuple[tuple[str, Any], ...]):
    """A JSON object whose repeated keys are kept, in the order of the file."""

    __slots__ = ()

    def repeated(self) -> tuple[str, ...]:
        """Keys that occur more than once, by first occurrence."""
        counts: dict[str, int] = {}
        for key, _ in self:
            counts[key] = counts.get(key, 0) + 1
        return tuple(key for key, count in counts.items() if count > 1)


@final
@dataclass(frozen=True, eq=False)
class RawHeader:
    """What stands between the length and the tensors of a safetensors file.

    Args:
        length: Bytes of header that the file states.
        size: Bytes of the file.
        text: The header; empty where it is oversize or does not fit into the file.
        entries: All pairs of the outermost object, nested objects as ``Pairs`` too; empty where
            the text is no JSON object.
        error: Why the text could not be parsed, or ``None``.
    """

    length: int
    size: int
    text: bytes
    entries: Pairs
    error: str | None = None

    @cached_property
    def tensors(self) -> tuple[tuple[str, Any], ...]:
        """All entries but metadata, repeated names included."""
        return tuple((name, entry) for name, entry in self.entries if name != METADATA)

    @cached_property
    def metadata(self) -> tuple[tuple[str, Any], ...]:
        """All pairs of all metadata objects, repeated keys included."""
        found = (entry for name, entry in self.entries if name == METADATA)
        return tuple(pair for entry in found if isinstance(entry, Pairs) for pair in entry)

    @cached_property
    def stated(self) -> Mapping[str, str]:
        """Metadata as most loaders see it: the last of equal keys, texts only."""
        return {key: text for key, text in self.metadata if isinstance(text, str)}

    @property
    def data_start(self) -> int:
        """Offset of the first byte behind the header."""
        return 8 + self.length

    def blanks(self) -> Iterator[bytes]:
        """Runs of whitespace outside of strings, leading and trailing ones included."""
        for match in _STRING_OR_BLANKS.finditer(self.text):
            if not match.group().startswith(b'"'):
                yield match.group()


def is_safetensors(path: Path) -> bool:
    """Whether a file begins with a length and an opening brace, whatever its name.

    Under the name of one, a length that fits is enough: then a loader would read on.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        beginning = file.read(_PEEK).lstrip(_WHITESPACE)
    # Only the first brace counts: a length that does not fit is one more thing that is wrong.
    is_header = length < _NO_LENGTH and beginning.startswith(b"{")
    return size > 8 and (is_header or (path.suffix == _SUFFIX and length <= size - 8))


def read_header(path: Path) -> RawHeader:
    """Header of a file that ``is_safetensors``; what is wrong with it is told, never raised.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            limit = "the file has" if length > size - 8 else f"the {MAX_HEADER_BYTES} allowed"
            return RawHeader(
                length, size, b"", Pairs(), f"header of {length} bytes, beyond {limit}"
            )
        text = file.read(length)
    return _parsed(length, size, text)


def _parsed(length: int, size: int, text: bytes) -> RawHeader:
    try:
        entries = bounded_json(text.decode(), object_pairs_hook=Pairs)
    except TooMuchError as error:
        return RawHeader(length, size, text, Pairs(), f"header with {error}")
    except (ValueError, RecursionError) as error:
        return RawHeader(length, size, text, Pairs(), f"header is not JSON: {error}")
    if not isinstance(entries, Pairs):
        return RawHeader(length, size, text, Pairs(), "header is no JSON object")
    return RawHeader(length, size, text, entries)
