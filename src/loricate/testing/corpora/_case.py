"""One file of a corpus, and what a scan has to say about it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        expects: Keys of the rules that have to fire, each with the gravest it has to find, which
            is as grave as the harm and no graver; none for a benign case.
        needs_base: Whether it is to be judged against the embedded model.
    """

    name: str
    build: Build
    expects: Mapping[str, Severity] = field(default_factory=dict)
    needs_base: bool = False

    @property
    def rules(self) -> tuple[str, ...]:
        """Keys of the rules that have to fire."""
        return tuple(self.expects)


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
