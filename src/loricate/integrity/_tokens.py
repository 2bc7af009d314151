"""The vocabulary of a text encoder read as JSON, and characters that hide in prompts."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import final

from loricate.basics.errors import HostileFileError

__all__ = ["HIDDEN", "LOOK_ALIKES", "Vocabulary"]

_MAX_BYTES = 50_000_000
_END = "</w>"
_SPECIAL = re.compile(r"<\|.+\|>|<(?:s|/s|pad|unk|mask)>|\[(?:PAD|UNK|CLS|SEP|MASK)\]")

HIDDEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\u034f"
"""Characters without width."""

LOOK_ALIKES = (
    # Cyrillic
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u051b\u051d"
    "\u03b1\u03b9\u03bd\u03bf\u03c1\u03c4\u03c5"  # Greek
    "\u0585\u057d\u0570\u0578"  # Armenian
    "\u0b20\u0966\u0c66\u0ce6\u101d\u1d0f\u0251\u0261\u026a\u0131"  # other scripts, phonetics
    "\u1ea1\u1eb9\u1ecb\u1ecd\u1ee5\u020f\u00ba"  # marks below and above
    "\uff41\uff45\uff49\uff4f\uff55"  # full width
)
"""Characters that look like letters of the Latin alphabet, or nearly so."""


@final
@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Byte-pair encoding of a CLIP text encoder.

    Args:
        ids: Id of each token, spelled in the alphabet that stands for bytes.
        merges: Pairs that become one token, the most frequent first.
    """

    ids: Mapping[str, int]
    merges: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, folder: Path) -> "Vocabulary | None":
        """Vocabulary of a tokenizer's folder, or ``None`` if it has none of this kind.

        Raises:
            HostileFileError: A file is oversize or not what its name says.
        """
        pair = folder / "vocab.json", folder / "merges.txt"
        try:
            if all(file.is_file() for file in pair):
                ids, listed = json.loads(_text(pair[0])), _text(pair[1]).splitlines()
                return cls._checked(ids, [line.split(" ") for line in listed if " " in line])
            whole = folder / "tokenizer.json"
            if not whole.is_file():
                return None
            model = json.loads(_text(whole))["model"]
            merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
            return cls._checked(model["vocab"], merges)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise HostileFileError(folder, reason=f"not a vocabulary: {error}") from None

    @classmethod
    def _checked(cls, ids: Mapping[str, int], merges: list[list[str]]) -> "Vocabulary":
        if not all(type(number) is int and number >= 0 for number in ids.values()):
            raise ValueError("ids are not whole numbers")
        return cls(
            dict(ids), tuple((left, right) for left, right in (m for m in merges if len(m) == 2))
        )

    def encode(self, word: str, *, ends: bool = True) -> tuple[int, ...]:
        """Ids of the tokens of a word.

        Args:
            word: Text without spaces.
            ends: Whether the word ends there, or goes on.
        """
        parts = [_ALPHABET[byte] for byte in word.encode()]
        if parts and ends:
            parts[-1] += _END
        while len(parts) > 1:
            ranked = [(self._order.get(p, len(self._order)), p) for p in pairwise(parts)]
            rank, pair = min(ranked)
            if rank == len(self._order):
                break
            parts = _merged(parts, pair)
        return tuple(self.ids[part] for part in parts if part in self.ids)

    def tokens_of(self, characters: str, n_rows: int) -> dict[int, str]:
        """A character of each token that is a part of one, inside and at the end of words.

        Args:
            characters: Characters that are looked for.
            n_rows: Number of embeddings; ids beyond have none.
        """
        found = {
            number: character
            for character in characters
            for ends in (True, False)
            for number in self.encode(character, ends=ends)
        }
        return {number: character for number, character in found.items() if number < n_rows}

    def special(self, n_rows: int) -> list[int]:
        """Ids of tokens that stand around prompts and are no words.

        Args:
            n_rows: Number of embeddings; ids beyond have none.
        """
        return [n for token, n in self.ids.items() if _SPECIAL.fullmatch(token) and n < n_rows]

    def name(self, number: int) -> str:
        """How a token is spelled, or its number where it has no name."""
        return next((token for token, own in self.ids.items() if own == number), str(number))

    @cached_property
    def _order(self) -> Mapping[tuple[str, str], int]:
        return {pair: rank for rank, pair in enumerate(self.merges)}


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    rest = iter(range(len(parts)))
    for i in rest:
        is_pair = tuple(parts[i : i + 2]) == pair
        merged.append(parts[i] + parts[i + 1] if is_pair else parts[i])
        if is_pair:
            next(rest)
    return merged


def _text(file: Path) -> str:
    if file.stat().st_size > _MAX_BYTES:
        raise HostileFileError(file, reason=f"vocabulary exceeds {_MAX_BYTES} bytes")
    return file.read_text(encoding="utf-8")


def _alphabet() -> dict[int, str]:
    # Printable bytes stand for themselves, the others for characters from 256 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


_ALPHABET = _alphabet()
