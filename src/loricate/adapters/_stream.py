"""Safetensors files written tensor by tensor, never whole in memory."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from safetensors.numpy import save

__all__ = ["Entry", "raw_bytes", "write_stream"]

Entry: TypeAlias = tuple[np.dtype[Any], tuple[int, ...]]
"""Dtype and shape of a tensor."""

_CHUNK_BYTES = 1 << 23


def write_stream(
    path: Path,
    entries: Mapping[str, Entry],
    content: Callable[[str], Iterable[memoryview]],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file in one pass; not atomic, so meant for a staging folder.

    Args:
        path: Destination.
        entries: Every tensor, in the order of its data.
        content: Bytes of a tensor, in pieces; asked for once a tensor, in order.
        metadata: Text for the header.
    """
    with path.open("wb") as file:
        file.write(_header(entries, metadata))
        for name, (dtype, shape) in entries.items():
            written = sum(file.write(piece) for piece in content(name))
            assert written == dtype.itemsize * math.prod(shape), name


def raw_bytes(array: np.ndarray[Any, Any]) -> Iterable[memoryview]:
    """The bytes of an array, in pieces that fit into a cache."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return (data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES))


def _header(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in entries.items():
        begin, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": _code(dtype), "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    # The data starts at a multiple of eight, as in files of the safetensors library.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _code(dtype: np.dtype[Any]) -> str:
    """What the safetensors library itself calls a dtype."""
    code: str = json.loads(save({"": np.empty(0, dtype)})[8:])[""]["dtype"]
    return code
