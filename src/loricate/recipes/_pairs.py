"""Two models side by side, tensor by tensor, whatever the layout of either."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

import numpy as np

from loricate.adapters.adapter import Target
from loricate.adapters.baking import FLOATS
from loricate.adapters.names import canonical
from loricate.adapters.slots import Slot, slots_of, without_ones
from loricate.adapters.weights import StoredArray, Weights, open_model
from loricate.basics.arrays import dtype_name, upcast
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    NumericalError,
    ShapeError,
    UnsupportedError,
    nearest,
)
from loricate.recipes.spectrum import TABLES

__all__ = ["Pair", "Pairs", "open_pairs"]

# Entries compared at a time: most changes show early, and a large table costs little memory.
_BLOCK = 1 << 16

# What a checkpoint holds besides its components: averages of the weights, constants.
_LEFTOVERS = "model"


class _Tensor(NamedTuple):
    weights: Weights
    slot: Slot

    @property
    def shape(self) -> tuple[int, ...]:
        return self.slot.shape(self.weights)

    @property
    def dtype(self) -> str:
        return dtype_name(self.weights.dtype(self.slot.name))

    @property
    def has_axes(self) -> bool:
        return len(self.shape) in (2, 4) and 0 not in self.shape

    @property
    def is_matrix(self) -> bool:
        return self.has_axes and self.dtype in FLOATS

    def read(self) -> StoredArray:
        return self.slot.of(self.weights)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """One tensor of a component, before and after tuning.

    Args:
        component: Component of both.
        name: Name of the tensor in diffusers.
        base: Before.
        tuned: After.
    """

    component: str
    name: str
    base: _Tensor
    tuned: _Tensor

    @property
    def target(self) -> Target:
        """Module of the tensor."""
        return Target(self.component, self.name.rpartition(".")[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape that the layer has in diffusers."""
        # A file may keep the attention of an autoencoder as 1x1 convolutions.
        is_attention = self.component == "vae" and ".attentions." in self.name
        shapes = [self.base.shape, self.tuned.shape]
        return without_ones(shapes[0]) if is_attention else min(shapes, key=len)

    @property
    def kernel(self) -> tuple[int, int, int] | None:
        """Input channels, height and width if the layer is a convolution."""
        if len(self.shape) != 4:
            return None
        _, c_in, height, width = self.shape
        return c_in, height, width

    @property
    def is_layer(self) -> bool:
        """Whether a low-rank update can hold a change of it."""
        *_, owner, leaf = ("", *self.name.split("."))
        both = self.base.is_matrix and self.tuned.is_matrix
        return leaf == "weight" and owner not in TABLES and both

    @property
    def is_changed(self) -> bool:
        """Whether a value differs; the values of two dtypes are compared, not their bits."""
        before, after = (side.read().reshape(-1) for side in (self.base, self.tuned))
        blocks = (slice(at, at + _BLOCK) for at in range(0, before.size, _BLOCK))
        return not all(np.array_equal(before[block], after[block]) for block in blocks)

    def difference(self) -> StoredArray:
        """Change as a matrix in float32 or wider, kernels flattened behind their first axis.

        Raises:
            NumericalError: A side, or the change, is not finite.
        """
        rows = self.shape[0]
        with np.errstate(invalid="ignore", over="ignore"):
            before, after = (upcast(side.read()) for side in (self.base, self.tuned))
            change = np.ascontiguousarray(after.reshape(rows, -1) - before.reshape(rows, -1))
            # A sum of squares is finite unless something is not, or large; and takes no memory.
            is_finite = math.isfinite(np.vdot(change, change)) or np.isfinite(change).all()
        if not is_finite:
            side = "base" if not np.isfinite(before).all() else "tuned model"
            what = f"expected finite values in the {side}, got NaN or infinity"
            raise NumericalError(what, where=str(self.target))
        return change


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Pairs:
    """All tensors of two models that have a counterpart, and those that do not.

    Args:
        pairs: Tensors of both, in the order in which the tuned model keeps them.
        unpaired: Tensors of a compared component that only one side has, by the names in diffusers.
        skipped: Components that only one side has, and ``model`` for what a checkpoint holds
            besides its components.
    """

    pairs: tuple[Pair, ...]
    unpaired: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def components(self) -> tuple[str, ...]:
        """Components that are compared, sorted."""
        return tuple(sorted({pair.component for pair in self.pairs}))


def open_pairs(base: Path, tuned: Path, component: str | None = None) -> Pairs:
    """The tensors of two models side by side; nothing is read but the headers.

    Args:
        base: A diffusers folder, the folder of one component, or a safetensors file.
        tuned: The same model after tuning, in any of these layouts.
        component: Component to compare, and what a lone component of another name is; ``None``
            compares all that both have.

    Raises:
        ConfigError: No component is on both sides, or the layers of one differ.
        ShapeError: A tensor has another shape after tuning.
        UnsupportedError: A layer is stored in eight bits or in integers.
        PrerequisiteError: There are no safetensors weights.
        HostileFileError: A file is malformed.
    """
    sides = [_named(open_model(path), component) for path in (base, tuned)]
    common = [name for name in sides[0] if name in sides[1] and component in (None, name)]
    if len(common) > 1 and _LEFTOVERS in common:
        common.remove(_LEFTOVERS)
    if not common:
        expected = f"a component of {str(base)!r}: {', '.join(sides[0])}"
        got = component or ", ".join(sides[1])
        close = nearest(got, sides[0])
        raise ConfigError(ConfigProblem(key="component", expected=expected, got=got, nearest=close))
    pairs: list[Pair] = []
    unpaired: list[str] = []
    for name in common:
        before, after = (_tensors(name, side[name]) for side in sides)
        for path, tensors in zip((base, tuned), (before, after), strict=True):
            _require_floats(name, tensors, path)
        _require_same_layers(name, before, after)
        unpaired += _unpaired(name, before, after)
        pairs += [
            _pair(name, tensor, before[tensor], after[tensor])
            for tensor in after
            if tensor in before
        ]
    skipped = {*sides[0], *sides[1]}.difference(common) if component is None else ()
    return Pairs(pairs=tuple(pairs), unpaired=tuple(unpaired), skipped=tuple(sorted(skipped)))


def _named(components: Mapping[str, Weights], wanted: str | None) -> Mapping[str, Weights]:
    # A lone component is what the caller says, whatever its folder is called.
    if wanted is not None and len(components) == 1:
        return {wanted: next(iter(components.values()))}
    return components


def _tensors(component: str, weights: Weights) -> dict[str, _Tensor]:
    """All tensors of a component by their names in diffusers."""
    modules = {
        slot: canonical(component, module) for module, slot in slots_of(component, weights).items()
    }
    by_name: dict[str, list[Slot]] = {}
    for slot in modules:
        by_name.setdefault(slot.name, []).append(slot)
    tensors = {}
    for name in weights.in_disk_order():
        # The bias of a module goes by the name of its weight, in fused thirds too.
        owner = name.removesuffix("bias") + "weight" if name.endswith("bias") else name
        leaf = "bias" if name.endswith("bias") else "weight"
        slots = by_name.get(owner, [])
        for slot in slots:
            tensors[f"{modules[slot]}.{leaf}"] = _Tensor(weights, slot._replace(name=name))
        if not slots:
            tensors[name] = _Tensor(weights, Slot(name))
    return tensors


def _require_floats(component: str, tensors: Mapping[str, _Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        is_layer = name.endswith(".weight") and tensor.has_axes
        if is_layer and tensor.dtype not in FLOATS:
            what = f"{component}/{name} of dtype {tensor.dtype} in {str(path)!r}"
            hint = "take a float16 or float32 copy: rounding to fewer bits is no low-rank change"
            raise UnsupportedError(what, by="extraction", hint=hint)


def _require_same_layers(
    component: str, before: Mapping[str, _Tensor], after: Mapping[str, _Tensor]
) -> None:
    layers = [
        {name for name, tensor in side.items() if name.endswith(".weight") and tensor.is_matrix}
        for side in (before, after)
    ]
    if odd := sorted(layers[0] ^ layers[1]):
        side = "base" if odd[0] in layers[0] else "tuned model"
        expected = f"two {component} of one architecture"
        got = f"{len(odd)} layers on one side, such as {odd[0]!r} of the {side}"
        raise ConfigError(ConfigProblem(key="tuned", expected=expected, got=got))


def _unpaired(
    component: str, before: Mapping[str, _Tensor], after: Mapping[str, _Tensor]
) -> list[str]:
    # Not tables of indices, which some versions of transformers store and others do not.
    either = {**before, **after}
    odd = before.keys() ^ after.keys()
    return sorted(f"{component}/{name}" for name in odd if either[name].dtype in FLOATS)


def _pair(component: str, name: str, base: _Tensor, tuned: _Tensor) -> Pair:
    if without_ones(base.shape) != without_ones(tuned.shape):
        where = f"{component}/{name}"
        hint = "the models have different architectures"
        raise ShapeError(f"shape {base.shape} as in the base", tuned.shape, where=where, hint=hint)
    return Pair(component=component, name=name, base=base, tuned=tuned)
