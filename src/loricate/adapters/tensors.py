"""Strict reading and atomic writing of safetensors files.

The header is measured before it is parsed and checked before any tensor is touched; tensors are
mapped from disk one at a time, so a file may be larger than memory.
"""

import json
import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import ml_dtypes
import numpy as np
from jaxtyping import Shaped
from safetensors.numpy import save_file

from loricate.adapters.staging import staged
from loricate.basics.arrays import Array, dtype_name, on_cpu, to_numpy
from loricate.basics.errors import HostileFileError, PrerequisiteError, UnsupportedError

__all__ = [
    "MAX_TENSORS",
    "TensorFile",
    "TensorInfo",
    "TooMuchError",
    "bounded_json",
    "save_tensors",
    "staged_folder",
    "to_storage",
]

MAX_HEADER_BYTES = 20_000_000
"""A fifth of what the safetensors library accepts; a scan takes up to 20 times as much memory."""

MAX_TENSORS = 65_536
"""Several times what any model has; the header of more costs more memory than a check may take."""

_NODES_PER_TENSOR = 16

# What numpy can hold: axes, and bytes of an array whose empty axes are left out.
_MAX_AXES = 64
_MAX_BYTES = 2**63 - 1

# A mapping costs more than to read this much.
_PAGE = 4096

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


@final
@dataclass(frozen=True)
class TensorInfo:
    """What the header says about one tensor.

    Args:
        dtype: Numpy dtype, from ml_dtypes where numpy has none.
        shape: Shape.
        start: Offset of the first byte, counted from the start of the file.
        size_bytes: Number of bytes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    size_bytes: int


@final
class TensorFile(Mapping[str, Shaped[np.ndarray, "..."]]):
    """A safetensors file as a read-only mapping; a tensor is read when it is asked for.

    Args:
        path: The file.

    Raises:
        PrerequisiteError: There is no such file, or no permission to read it.
        HostileFileError: The header is oversize or malformed, or tensors overlap, leave gaps or
            reach beyond the file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            header, data_start, size = _read_header(self.path)
        except OSError as error:
            missing = f"a readable file {str(path)!r} ({error.strerror or error})"
            raise PrerequisiteError(missing, remedy="check the path and its permissions") from error
        self.metadata: Mapping[str, str] = _metadata(header.pop("__metadata__", {}), self.path)
        self.infos: Mapping[str, TensorInfo] = {
            name: _info(name, entry, data_start, self.path) for name, entry in header.items()
        }
        _check_layout(self.infos.values(), data_start, size, self.path)

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        info = self.infos[name]
        if info.size_bytes == 0:
            return np.empty(info.shape, info.dtype)
        return self._bytes(info).view(info.dtype).reshape(info.shape)

    def _bytes(self, info: TensorInfo) -> Shaped[np.ndarray, " size"]:
        # Several times as fast as numpy's own ways to read and map files.
        with self.path.open("rb", buffering=0) as file:
            if info.size_bytes <= _PAGE:
                file.seek(info.start)
                return np.frombuffer(bytearray(file.read(info.size_bytes)), np.uint8)
            skipped = info.start % mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(
                file.fileno(),
                skipped + info.size_bytes,
                access=mmap.ACCESS_READ,
                offset=info.start - skipped,
            )
        return np.frombuffer(mapped, np.uint8, info.size_bytes, skipped)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def save_tensors(
    path: str | Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file that is either complete or absent.

    Args:
        path: Destination; replaced if it exists.
        tensors: Arrays of any library.
        metadata: Text for the header. ``format`` is set to ``pt``, which loaders insist on.

    Raises:
        UnsupportedError: A dtype has no place in the format.
    """
    stored = {name: to_storage(array) for name, array in tensors.items()}
    for name, array in stored.items():
        if array.dtype not in _DTYPES.values():
            raise UnsupportedError(f"dtype {array.dtype} of {name!r}", by="safetensors")
    with staged(Path(path)) as stage:
        stage.touch()
        mode = stage.stat().st_mode
        save_file(stored, stage, metadata={**(metadata or {}), "format": "pt"})
        # safetensors writes files that nobody else can read, whatever the umask.
        stage.chmod(mode)


@contextmanager
def staged_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into, whose files appear at ``path`` together or not at all.

    A new folder appears by one rename. In a folder that exists already, files are replaced one by
    one and others are left alone.

    Args:
        path: Destination.

    Yields:
        A temporary folder beside the destination.
    """
    with staged(Path(path)) as stage:
        stage.mkdir()
        yield stage


def to_storage(array: Array) -> Shaped[np.ndarray, "..."]:
    """The array as contiguous numpy in the same dtype, taken off any device."""
    if isinstance(array, np.ndarray):
        return np.asarray(array, order="C")
    if dtype_name(array) == "bfloat16":
        # Which numpy does not know by itself; float64 holds all its values, so the detour is exact.
        return np.asarray(to_numpy(array).astype(ml_dtypes.bfloat16), order="C")
    return np.asarray(on_cpu(array), order="C")


def bounded_json(
    text: bytes | str,
    *,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Parsed JSON, unless that takes more memory than a header of ``MAX_TENSORS`` tensors.

    Args:
        text: The JSON. Commas and brackets count, those in strings too, as to tell them apart
            takes longer than to parse them.
        object_pairs_hook: As of ``json.loads``.

    Raises:
        TooMuchError: There is too much in it.
        ValueError: It is no JSON.
        RecursionError: It is nested too deeply.
    """
    counted: Any = text
    signs = (",", "[", "{") if isinstance(text, str) else (b",", b"[", b"{")
    if sum(map(counted.count, signs)) > MAX_TENSORS * _NODES_PER_TENSOR:
        raise TooMuchError(f"more in it than {MAX_TENSORS} tensors need")
    return json.loads(text, object_pairs_hook=object_pairs_hook)


class TooMuchError(ValueError):
    """JSON that would fill the memory."""


def _read_header(path: Path) -> tuple[dict[str, Any], int, int]:
    """Parsed header, offset of the data and size of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise HostileFileError(path, reason=f"header of {length} bytes in {size} bytes of file")
        if length > MAX_HEADER_BYTES:
            raise HostileFileError(
                path, reason=f"header of {length} bytes exceeds {MAX_HEADER_BYTES}"
            )
        raw = file.read(length)
    try:
        header = bounded_json(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise HostileFileError(path, reason=f"header is not strict JSON: {error}") from None
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise HostileFileError(path, reason=f"expected an object of at most {MAX_TENSORS} tensors")
    return header, 8 + length, size


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Python keeps the last of two equal keys and other parsers the first; what was checked must
    # be what is loaded.
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key occurs twice")
    return entries


def _metadata(entry: Any, path: Path) -> dict[str, str]:
    if isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values()):
        return entry
    raise HostileFileError(path, reason="expected metadata that maps text to text")


def _info(name: str, entry: Any, data_start: int, path: Path) -> TensorInfo:
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(begin), int(end)]}:
            pass
        case _:
            raise HostileFileError(path, reason=f"malformed entry {name!r}")
    if len(entry) > 3 or any(type(n) is not int or n < 0 for n in [*shape, begin, end]):
        raise HostileFileError(path, reason=f"malformed entry {name!r}")
    if code not in _DTYPES:
        raise UnsupportedError(f"dtype {code!r} of tensor {name!r}", by="this reader")
    if len(shape) > _MAX_AXES or math.prod(n or 1 for n in shape) > _MAX_BYTES // 8:
        raise HostileFileError(path, reason=f"tensor {name!r} has a shape that no array has")
    info = TensorInfo(_DTYPES[code], tuple(shape), data_start + begin, end - begin)
    if info.size_bytes != math.prod(shape) * info.dtype.itemsize:
        raise HostileFileError(
            path, reason=f"tensor {name!r} does not fill its {end - begin} bytes"
        )
    return info


def _check_layout(infos: Any, data_start: int, size: int, path: Path) -> None:
    position = data_start
    for info in sorted(infos, key=lambda info: (info.start, info.size_bytes)):
        if info.start != position:
            raise HostileFileError(path, reason=f"overlap or gap at byte {info.start}")
        position += info.size_bytes
    if position != size:
        raise HostileFileError(path, reason=f"expected {position} bytes of file, got {size}")
