"""What it takes to get a base back, to the bit, from a file with an update baked in."""

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Bool, UInt, UInt8

from loricate.adapters.baking import Block, bits, taken_out
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.adapters.weights import StoredArray
from loricate.basics.errors import HostileFileError

__all__ = ["BaseTensor", "Correction", "CorrectionWriter", "Undo", "undo_path"]

_KEY = "loricate.unbake"
_VERSION = 1


def undo_path(weights: Path) -> Path:
    """File beside a file of weights that takes an update out of it again.

    Its ending keeps it out of the model lists of user interfaces.
    """
    return weights.with_name(f"{weights.name}.unbake")


class BaseTensor(NamedTuple):
    """What is known of one tensor of a base.

    Args:
        dtype: Name of its dtype.
        digest: SHA-256 of its bytes.
    """

    dtype: str
    digest: str


@final
@dataclass(frozen=True, eq=False)
class Correction:
    """Base minus what subtraction restores, in units of the last place.

    Args:
        mask: Which entries differ, in the order of the data.
        values: Differences of those, as integers modulo the size of the dtype.
    """

    mask: Bool[np.ndarray, " n"]
    values: UInt[np.ndarray, " k"]

    def pack(self) -> UInt8[np.ndarray, " size"]:
        """The same in few bytes: most entries agree, and most of the others are neighbors."""
        flags = zlib.compress(np.packbits(self.mask).tobytes(), 1)
        signed = self.values.view(np.dtype(f"i{self.values.itemsize}"))
        # Small of either sign becomes small: 0, -1, 1, -2, 2 are written as 0, 1, 2, 3, 4.
        folded = (self.values << 1) ^ bits(signed >> (8 * signed.itemsize - 1))
        planes = folded.view(np.uint8).reshape(-1, folded.itemsize).T
        packed = len(flags).to_bytes(8, "little") + flags + zlib.compress(planes.tobytes(), 1)
        return np.frombuffer(packed, np.uint8)

    @classmethod
    def unpack(cls, packed: UInt8[np.ndarray, " size"], n: int, itemsize: int) -> "Correction":
        """Inverse of ``pack``.

        Args:
            packed: What it returned.
            n: Number of entries.
            itemsize: Bytes of each.

        Raises:
            ValueError: The bytes are not what ``pack`` returns for such a tensor.
        """
        data = packed.tobytes()
        split = 8 + int.from_bytes(data[:8], "little")
        flags = np.frombuffer(_inflate(data[8:split], -(-n // 8)), np.uint8)
        mask = np.unpackbits(flags, count=n).astype(bool)
        k = int(np.count_nonzero(mask))
        planes = np.frombuffer(_inflate(data[split:], k * itemsize), np.uint8)
        folded = np.ascontiguousarray(planes.reshape(itemsize, k).T).reshape(-1)
        folded = folded.view(np.dtype(f"u{itemsize}"))
        return cls(mask, (folded >> 1) ^ -(folded & 1))

    def applied(self, restored: StoredArray) -> StoredArray:
        """The base, from the whole restored tensor."""
        corrected = bits(restored.reshape(-1)).copy()
        corrected[self.mask] += self.values
        return corrected.view(restored.dtype).reshape(restored.shape)


@final
class CorrectionWriter:
    """Collects the correction of one tensor while its blocks pass by."""

    def __init__(self) -> None:
        self._masks: list[StoredArray] = []
        self._values: list[StoredArray] = []

    def add(self, block: Block) -> None:
        """Note one block."""
        restored = taken_out(block.after, block.change, block.before.dtype)
        difference = (bits(block.before) - bits(restored)).reshape(-1)
        self._masks.append(difference != 0)
        self._values.append(difference[self._masks[-1]])

    def correction(self) -> Correction | None:
        """What was found, or ``None`` if subtraction alone restores the base."""
        if not any(values.size for values in self._values):
            return None
        return Correction(np.concatenate(self._masks), np.concatenate(self._values))


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Undo:
    """Record of a base, kept beside the file that was baked from it.

    Args:
        base: What is known of each of its tensors.
        metadata: Text in its header.
        corrections: Packed correction of each tensor that subtraction alone does not restore.
        provenance: What was baked, such as the digest of the adapter.
        path: File it was read from.
    """

    base: Mapping[str, BaseTensor]
    metadata: Mapping[str, str]
    corrections: Mapping[str, UInt8[np.ndarray, "..."]]
    provenance: Mapping[str, str]
    path: Path | None = None

    def write(self, path: Path) -> None:
        """Keep the record in a file."""
        table = {
            "version": _VERSION,
            "base": self.base,
            "metadata": dict(self.metadata),
            "provenance": dict(self.provenance),
        }
        save_tensors(path, self.corrections, {_KEY: json.dumps(table)})

    @classmethod
    def read(cls, path: Path) -> "Undo":
        """Record kept in a file.

        Raises:
            HostileFileError: The file is not such a record.
        """
        file = TensorFile(path)
        try:
            table = json.loads(file.metadata[_KEY])
            if table["version"] != _VERSION:
                raise ValueError(f"version {table['version']!r}")
            return cls(
                base={name: BaseTensor(*map(str, entry)) for name, entry in table["base"].items()},
                metadata={str(key): str(text) for key, text in table["metadata"].items()},
                corrections=file,
                provenance={str(key): str(text) for key, text in table["provenance"].items()},
                path=path,
            )
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise HostileFileError(path, reason=f"not a record of a base: {error}") from None

    def corrected(self, name: str, restored: StoredArray) -> StoredArray:
        """The base's tensor, from what subtraction alone restores.

        Raises:
            HostileFileError: The correction belongs to no such tensor.
        """
        if name not in self.corrections:
            return restored
        packed = self.corrections[name]
        try:
            correction = Correction.unpack(packed, restored.size, restored.dtype.itemsize)
        except ValueError as error:
            reason = f"malformed correction of {name!r}: {error}"
            raise HostileFileError(self.path or name, reason=reason) from None
        return correction.applied(restored)


def _inflate(data: bytes, size: int) -> bytes:
    # No more than is wanted: a few bytes can inflate to more than memory holds.
    inflater = zlib.decompressobj()
    try:
        inflated = inflater.decompress(data, size) if size else inflater.decompress(data, 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if len(inflated) != size:
        raise ValueError(f"expected {size} bytes")
    return inflated
