"""Archives of numpy's arrays, which hold a pickle only where an array holds objects."""

import zipfile
from pathlib import Path

from numpy.lib import format as npy

from loricate.integrity._keys import is_adapter

__all__ = ["holds_numbers_alone"]

_END = ".npy"
_MAX_ARRAYS = 4096


def holds_numbers_alone(path: Path) -> bool:
    """Whether a file is what ``np.savez`` writes of plain numbers, and they are no adapter.

    By its name too: readers of weights who go by names take no such file, and might find something
    else in the archive than numpy does.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be read.
    """
    if path.suffix.lower() != ".npz":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            keys = [name.removesuffix(_END) for name in names]
            if len(names) > _MAX_ARRAYS or is_adapter(keys) or not _begins_as_zip(path):
                return False
            return all(name.endswith(_END) and _is_plain(archive, name) for name in names)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError):
        return False


def _begins_as_zip(path: Path) -> bool:
    # What begins otherwise, numpy takes for a pickle, wherever there is an archive in it.
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _is_plain(archive: zipfile.ZipFile, name: str) -> bool:
    with archive.open(name) as file:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        return not read(file)[2].hasobject
