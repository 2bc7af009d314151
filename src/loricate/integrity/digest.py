"""One digest for many tensors: names, dtypes and shapes count, order does not."""

import hashlib
import json
from collections.abc import Mapping

from loricate.adapters.adapter import Adapter
from loricate.adapters.keys import BASE_DIGEST
from loricate.adapters.tensors import to_storage
from loricate.basics.arrays import Array

__all__ = ["adapter_digest", "baked_digest", "digest", "stated_bases"]


def digest(tensors: Mapping[str, Array]) -> str:
    """SHA-256 over the tensors in the order of their names.

    Each contributes a canonical header of name, dtype and shape, then its bytes, so that neither
    a renamed nor a reshaped tensor can collide with another.

    Args:
        tensors: Arrays of any library, by name.

    Returns:
        Hexadecimal digest.
    """
    total = hashlib.sha256()
    for name in sorted(tensors):
        stored = to_storage(tensors[name])
        header = json.dumps([name, str(stored.dtype), list(stored.shape)], separators=(",", ":"))
        total.update(len(header).to_bytes(8, "big") + header.encode())
        total.update(stored.reshape(-1).view("u1").data)
    return total.hexdigest()


def adapter_digest(adapter: Adapter) -> str:
    """Digest of the factors as layers keep them, the scale folded in; what records state."""
    factors: dict[str, Array] = {
        f"{target}.{side}": factor
        for target, update in adapter.items()
        for side, factor in zip("AB", update.pair(), strict=True)
    }
    return digest(factors)


def baked_digest(adapter: Adapter) -> str:
    """Digest of everything that decides what an adapter adds to weights."""
    tensors: dict[str, Array] = {}
    for target, update in adapter.items():
        factors = update.factors
        tensors |= {f"{target}.{factors.scale!r}.{side}": getattr(factors, side) for side in "AB"}
    return digest(tensors)


def stated_bases(adapter: Adapter) -> Mapping[str, str]:
    """Digest of the base of each component, where the adapter states one."""
    stated = adapter.metadata
    names = {part: f"{BASE_DIGEST}.{part}" for part in adapter.components}
    if BASE_DIGEST in stated and len(names) == 1:
        names = {part: name if name in stated else BASE_DIGEST for part, name in names.items()}
    return {part: stated[name] for part, name in names.items() if name in stated}
