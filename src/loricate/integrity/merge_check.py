"""Merged weights held to base plus update, tensor by tensor, by the arithmetic that merged them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter
from loricate.adapters.baking import FLOATS, Patch, baked_blocks, bits
from loricate.adapters.names import canonical
from loricate.adapters.parts import open_parts
from loricate.adapters.slots import without_ones
from loricate.adapters.weights import (
    StoredArray,
    Weights,
    component_folder,
    open_file,
    open_model,
    open_weights,
)
from loricate.basics.arrays import unit_roundoff
from loricate.basics.errors import ConfigError, ConfigProblem, HostileFileError, NumericalError
from loricate.lowrank.factors import LowRank

__all__ = ["TensorCheck", "check_merge", "excess", "name_in_diffusers"]

# Roundings of what is added, where a merge in one dtype keeps the product and its multiple.
_ROUNDINGS: Final = 2

# How many times larger than weight and sum the terms of a product may be before it stops to count:
# what an update adds is seldom larger than the weight.
_CANCELLATION = 4.0


@final
@dataclass(frozen=True, kw_only=True)
class TensorCheck:
    """How one tensor of a merged model compares with base plus update.

    Args:
        component: Part of the pipeline.
        name: Name of the tensor in the merged model.
        passed: Whether it is base plus update: every bit as this arithmetic rounds it, or in
            half precision within the rounding of any merge, unless it was to be ours. ``None``
            where a wider float is within the rounding of another tool's arithmetic, which bits
            alone could prove.
        is_updated: Whether the adapter updates it.
        is_base: Whether it is the base's, bit for bit.
        is_exact: Whether every bit is as replayed.
        max_error: Largest distance of an entry to the exact sum, in units of what rounding
            explains.
        why: What is wrong, where something is.
    """

    component: str
    name: str
    passed: bool | None
    is_updated: bool = False
    is_base: bool = False
    is_exact: bool = False
    max_error: float = 0.0
    why: str = ""


def check_merge(
    adapter: Adapter, base: Path, merged: Path, *, is_ours: bool = False
) -> Iterator[TensorCheck]:
    """Every tensor of the components an adapter updates, compared.

    Linear and convolution layers of any component are replayed as ``bake`` adds them: in float64
    with exact products, rounded once to the dtype of the merged tensor. All other tensors have
    to be the base's.

    What another tool merged in half precision may differ by what its arithmetic can cost, with
    ``u`` the unit roundoff of the merged dtype, ``v`` that of float32 and ``D`` the exact update:
    one rounding of the sum, ``u |W + D|``; two of what is added where product and multiple are
    kept in half, ``2 u |D|``; one of the weight where the base is stored wider, ``u |W|``; two of
    each term where the factors are, ``2 u`` of the sizes that are summed; and ``(rank + 2) v`` of
    them, as sums in float32 may be taken in any order. So a weight that hardly any update reaches
    may not be off by two roundoffs.

    Args:
        adapter: The updates, the gain included.
        base: Diffusers folder, folder of one component, or safetensors file.
        merged: The same, in the same layout or another.
        is_ours: Whether it is said to be merged here, so that every bit counts.

    Yields:
        One result for each tensor of base and merged model.

    Raises:
        ConfigError: Base or merged model lack a component or a module.
        ShapeError: An update does not fit its weight.
        UnsupportedError: A weight is stored in integers or eight bits.
        HostileFileError: A file is malformed.
    """
    for pairing in _pairings(adapter, base, merged):
        for found in _compared(pairing):
            is_other = found.passed and not found.is_exact
            why = "within rounding, where loricate is said to have merged it, to the bit"
            yield replace(found, passed=False, why=why) if is_ours and is_other else found


def name_in_diffusers(component: str, name: str) -> str:
    """Canonical name of a tensor, whether a single file or diffusers named it.

    Args:
        component: Part of the pipeline.
        name: Name in the file, without the prefix of the component.
    """
    module, dot, leaf = name.rpartition(".")
    return canonical(component, sgm.to_diffusers(component, module) or module) + dot + leaf


class _Pairing(NamedTuple):
    """Base and merged weights of one file or component; names of both lead to one key."""

    component: str
    before: Weights
    patches: Mapping[str, Sequence[Patch]]
    after: Weights
    before_names: Mapping[str, str]
    after_names: Mapping[str, str]
    is_one_layout: bool


def _pairings(adapter: Adapter, base: Path, merged: Path) -> Iterator[_Pairing]:
    if base.is_file() and merged.is_file():
        (part,) = open_parts(base, adapter)
        names = {name: name for name in part.weights}
        after = open_file(merged)
        label = "+".join(adapter.components)
        same = {name: name for name in after}
        yield _Pairing(label, part.weights, part.patches, after, names, same, True)
        return
    for component in adapter.components:
        (part,) = open_parts(base, adapter.only([component]))
        after = _component(merged, component)
        own = _names_in(base, component, part.weights)
        is_one_layout = base.is_dir() and set(own.values()) == set(after)
        keys = {name: name for name in after}
        if not is_one_layout:
            own, keys = (
                _by_place(component, names, path) for names, path in ((own, base), (keys, merged))
            )
        yield _Pairing(component, part.weights, part.patches, after, own, keys, base.is_dir())


def _by_place(component: str, names: Mapping[str, str], path: Path) -> dict[str, str]:
    """The same names by what diffusers calls their tensors; two for one place are refused."""
    places: dict[str, str] = {}
    for each, name in names.items():
        place = name_in_diffusers(component, each)
        if place in places:
            both = f"{places[place]!r} and {name!r} are one tensor to loaders"
            raise HostileFileError(path, reason=both)
        places[place] = name
    return places


def _names_in(base: Path, component: str, weights: Weights) -> dict[str, str]:
    """Names in the base by their names in the component; a file may have others in front."""
    if base.is_dir():
        return {name: name for name in weights}
    parts = open_model(base)
    lone = next(iter(parts.values())) if len(parts) == 1 else weights
    return {name: key for name, (_, key) in parts.get(component, lone).sources.items()}


def _component(merged: Path, component: str) -> Weights:
    if merged.is_dir():
        return open_weights(component_folder(merged, component))
    parts = open_model(merged)
    if component in parts or len(parts) == 1:
        return parts.get(component) or next(iter(parts.values()))
    expected = f"one of {', '.join(sorted(parts))}, as in the merged file"
    raise ConfigError(ConfigProblem(key="component", expected=expected, got=component), file=merged)


def _compared(pairing: _Pairing) -> Iterator[TensorCheck]:
    before, after = pairing.before_names, pairing.after_names
    # Where layouts differ, a buffer may have no place in one of them.
    verdict = False if pairing.is_one_layout else None
    for key in sorted(before.keys() | after.keys()):
        if key in before and key in after:
            old, new = pairing.before[before[key]], pairing.after[after[key]]
            patches = pairing.patches.get(before[key], ())
            found = _check(old, new, patches)
            yield replace(found, component=pairing.component, name=after[key])
        else:
            why = "the base has no such tensor" if key in after else "the merged model lacks it"
            yield TensorCheck(component=pairing.component, name=key, passed=verdict, why=why)


def _check(before: StoredArray, after: StoredArray, patches: Sequence[Patch]) -> TensorCheck:
    blank = TensorCheck(component="", name="", passed=False, is_updated=bool(patches))
    if without_ones(before.shape) != without_ones(after.shape):
        return replace(blank, why=f"shape {after.shape}, the base has {before.shape}")
    if before.dtype != after.dtype and not {str(before.dtype), str(after.dtype)} <= FLOATS.keys():
        return replace(blank, why=f"dtype {after.dtype}, the base has {before.dtype}")
    is_base = before.dtype == after.dtype and _is_same(before, after)
    if is_base and not patches:
        return replace(blank, passed=True, is_base=True, is_exact=True)
    if not patches and before.dtype == after.dtype:
        return replace(blank, why="it is not the base's, and no update is for it")
    try:
        if _is_replayed(before, after, patches):
            return replace(blank, passed=True, is_base=is_base, is_exact=True)
        error = excess(before, after, patches)
    except NumericalError as refusal:
        return replace(blank, is_base=is_base, why=str(refusal))
    if error <= 1:
        is_narrow = after.dtype.itemsize < 4
        why = "" if is_narrow else "rounded otherwise than here: merged by another tool?"
        passed = True if is_narrow else None
        return replace(blank, passed=passed, is_base=is_base, max_error=error, why=why)
    why = f"off base plus update by {error:.3g} times what rounding explains"
    return replace(blank, is_base=is_base, max_error=error, why=why)


def _is_replayed(before: StoredArray, after: StoredArray, patches: Sequence[Patch]) -> bool:
    flat, position = after.reshape(-1), 0
    for block in baked_blocks(before, patches, after.dtype):
        expected = block.after.reshape(-1)
        if not _is_same(expected, flat[position : position + expected.size]):
            return False
        position += expected.size
    return True


def excess(before: StoredArray, after: StoredArray, patches: Sequence[Patch]) -> float:
    """Largest distance to the exact sum, over what rounding of a merge may cost at the entry.

    Args:
        before: Weight of the base.
        after: Merged weight.
        patches: What was to be added.

    Returns:
        At most 1 where ``check_merge`` takes every difference for rounding.

    Raises:
        NumericalError: The exact sum is not finite.
    """
    flat, position, worst = after.reshape(-1), 0, 0.0
    wide = np.dtype(np.float64)
    sums = baked_blocks(before, patches, wide)
    sizes = baked_blocks(np.abs(before), [_magnitude(patch) for patch in patches], wide)
    rank = max((patch.update.rank for patch in patches), default=0)
    unit = unit_roundoff(after)
    narrowing = unit if before.dtype.itemsize > after.dtype.itemsize else 0.0
    factors = [factor for patch in patches for factor in (patch.update.A, patch.update.B)]
    is_wide = any(np.asarray(each).dtype.itemsize > after.dtype.itemsize for each in factors)
    # An inner product of length k is off by k roundoffs: Golub & Van Loan 2013, section 2.7.
    order = (rank + 2) * unit_roundoff(np.zeros(1, np.float32))
    for exact, size in zip(sums, sizes, strict=True):
        here = slice(position, position + exact.after.size)
        stored, total = flat[here].astype(np.float64), exact.after.reshape(-1)
        weight = before.reshape(-1)[here].astype(np.float64)
        with np.errstate(invalid="ignore"):
            distance = np.abs(stored - total)
        # Factors that cancel would allow anything.
        most = _CANCELLATION * (np.abs(weight) + np.abs(total))
        summed = np.minimum(size.after.reshape(-1), most)
        allowed = (
            unit * np.abs(total)
            + _ROUNDINGS * unit * np.abs(total - weight)
            + narrowing * np.abs(weight)
            + _ROUNDINGS * unit * is_wide * np.maximum(summed - np.abs(weight), 0.0)
            + order * summed
            + _smallest(after.dtype)
        )
        worst = max(worst, _largest(distance / allowed))
        position += stored.size
    return worst


def _magnitude(patch: Patch) -> Patch:
    """The patch with every entry of its factors positive: what its sums add up in size."""
    update = patch.update
    factors = LowRank(np.abs(update.A), np.abs(update.B), abs(update.scale))
    return patch._replace(update=factors)


def _largest(array: StoredArray) -> float:
    largest = float(array.max(initial=0.0))
    return float("inf") if np.isnan(largest) else largest


def _smallest(dtype: np.dtype[Any]) -> float:
    # Below it floats are spaced evenly, so that rounding is no longer relative.
    unit = np.ones((), np.dtype(f"u{dtype.itemsize}"))
    return float(unit.view(dtype).astype(np.float64))


def _is_same(a: StoredArray, b: StoredArray) -> bool:
    left, right = (bits(np.ascontiguousarray(each).reshape(-1)) for each in (a, b))
    return np.array_equal(left, right)
