"""What a file format of adapters promises."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, final

from loricate.adapters.adapter import Adapter

__all__ = ["AdapterFile", "Format", "ScaleSource"]

ScaleSource: TypeAlias = Literal["tensor", "config", "header", "absent"]
"""Where a file says what stands in front of the product; absent means 1."""


@final
@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What a path turned out to be.

    Args:
        path: The file or folder.
        form: ``peft``, ``diffusers``, ``diffusers-model``, ``kohya`` or ``comfy``.
        adapter: The updates, under canonical names.
        scale_source: Where the scale was stated.
        notes: Oddities that were resolved, in words.
    """

    path: Path
    form: str
    adapter: Adapter
    scale_source: ScaleSource
    notes: tuple[str, ...] = ()


class Format(ABC):
    """One way to keep an adapter on disk.

    Reading what was written gives the same dense updates. Writers fold the scale into ``B`` and
    state alpha == rank wherever the format has a place for it; readers refuse what they do not
    understand, and never drop it.
    """

    @abstractmethod
    def read(self, path: Path) -> Adapter:
        """Adapter kept at a path.

        Args:
            path: File or folder.

        Raises:
            HostileFileError: The file is malformed in a way that only happens on purpose.
            UnsupportedError: It holds something that is not a plain LoRA.
            ShapeError: Factors do not belong together.
        """

    @abstractmethod
    def write(self, adapter: Adapter, path: Path) -> None:
        """Keep an adapter at a path, completely or not at all.

        Args:
            adapter: What to write.
            path: File or folder; replaced if it exists.

        Raises:
            UnsupportedError: The format cannot hold this adapter.
        """
