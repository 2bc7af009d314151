"""What a file format of adapters promises."""

from abc import ABC, abstractmethod
from pathlib import Path

from loricate.adapters.adapter import Adapter

__all__ = ["Format"]


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
