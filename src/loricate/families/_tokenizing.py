"""One thread at a time in a tokenizer."""

from threading import Lock
from typing import Final

__all__ = ["TOKENIZING"]

TOKENIZING: Final = Lock()
"""A fast tokenizer keeps its padding between calls: two threads get each other's, or an error."""
