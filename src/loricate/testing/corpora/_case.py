"""One file of a corpus, and what a scan has to say about it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

from loricate.integrity.finding import Severity

__all__ = ["Build", "Case", "file_of"]

Build: TypeAlias = Callable[[Path], Path]


@final
@dataclass(frozen=True, kw_only=True)
class Case:
    """A file or folder to be built and scanned.

    Args:
        name: What it is, in snake case; unique in its corpus.
        build: Writes it into an empty folder, and returns what is to be scanned.
        rules: Keys of the rules that have to fire; none for a benign case.
        severity: Severity that each of them has to find at least. Of a benign case, the severity
            that nothing may reach.
        needs_base: Whether it is to be judged against the embedded model.
    """

    name: str
    build: Build
    rules: tuple[str, ...] = ()
    severity: Severity = Severity.MEDIUM
    needs_base: bool = False


def file_of(name: str, content: bytes) -> Build:
    """How a file of some bytes is built.

    Args:
        name: Its name.
        content: Its bytes.
    """

    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build
