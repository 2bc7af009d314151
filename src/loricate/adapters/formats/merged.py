"""Component folder with the update written into its weights."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.format import Format
from loricate.adapters.names import spellings
from loricate.adapters.tensors import save_tensors, staged_folder, to_storage
from loricate.adapters.weights import StoredArray, Weights, component_folder, open_weights
from loricate.basics.arrays import dtype_name
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    NumericalError,
    ShapeError,
    UnsupportedError,
    nearest,
)
from loricate.lowrank.factors import LowRank
from loricate.lowrank.merge import merge
from loricate.lowrank.rules import EnergyRank, RankRule
from loricate.lowrank.svd import truncated_svd

__all__ = ["Merged"]

# What rounding the merged weights to their dtype did looks like an update of full rank.
_ABOVE_ROUNDING = EnergyRank(0.9999)

_FLOATS = ("float64", "float32", "float16", "bfloat16")


@final
@dataclass(frozen=True, kw_only=True)
class Merged(Format):
    """Drop-in copy of a base component, for loaders that know no adapters.

    Args:
        base: Folder of the base component, or the diffusers folder around it.
        component: Component of the adapter to merge.
        dtype: ``"float32"`` stores all floats so; ``None`` keeps the dtype of each base tensor,
            to which the sum is rounded once.
        rule: Rank kept when an adapter is read back.
    """

    base: Path
    component: str = "vae"
    dtype: Literal["float32"] | None = None
    rule: RankRule = _ABOVE_ROUNDING

    def read(self, path: Path) -> Adapter:
        """Adapter that leads from the base to a merged folder, by SVD of the differences."""
        base = open_weights(component_folder(self.base, self.component))
        merged = open_weights(component_folder(Path(path), self.component))
        if base.keys() != merged.keys():
            differing = sorted(base.keys() ^ merged.keys())
            raise UnsupportedError(
                f"another set of tensors than the base, {differing[:3]},", by=_ME
            )
        updates = {
            Target(self.component, name.removesuffix(".weight")): update
            for name in base
            if (update := self._difference(name, base, merged)) is not None
        }
        return Adapter(updates)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write the component with the adapter merged, and its configuration, into a folder."""
        if foreign := sorted({*adapter.components} - {self.component}):
            hint = "pick the component with Adapter.only"
            raise UnsupportedError(f"components {foreign}", by=_ME, hint=hint)
        folder = component_folder(self.base, self.component)
        if Path(path).resolve() == folder.resolve():
            problem = ConfigProblem(key="path", expected="a folder besides the base", got=str(path))
            raise ConfigError(problem)
        base = open_weights(folder)
        updates = _by_weight(adapter.modules(self.component), base)
        tensors = {name: self._merged(name, base, updates.get(name)) for name in base}
        with staged_folder(path) as staged:
            save_tensors(staged / f"{base.stem}.safetensors", tensors)
            for config in folder.glob("*.json"):
                if not config.name.endswith(".index.json"):
                    shutil.copyfile(config, staged / config.name)

    def _merged(self, name: str, base: Weights, update: Update | None) -> StoredArray:
        weight = base[name]
        if self.dtype is not None and dtype_name(weight) in _FLOATS:
            weight = weight.astype(self.dtype)
        if update is None:
            return weight
        if _without_1x1(weight.shape) != _without_1x1(update.weight_shape):
            raise ShapeError(f"a weight of shape {update.weight_shape}", weight.shape, where=name)
        try:
            merged = merge(weight.reshape(weight.shape[0], -1), _in_numpy(update.factors))
        except NumericalError as error:
            hint = "store it as float32" if dtype_name(weight) == "float16" else None
            raise NumericalError(error.what, where=name, hint=hint) from None
        return np.asarray(merged).reshape(weight.shape)

    def _difference(self, name: str, base: Weights, merged: Weights) -> Update | None:
        before, after = base[name], merged[name]
        if before.shape != after.shape:
            raise ShapeError(f"the shape of the base, {before.shape}", after.shape, where=name)
        if dtype_name(before) not in _FLOATS or np.array_equal(before, after.astype(before.dtype)):
            return None
        if before.ndim not in (2, 4) or not name.endswith(".weight"):
            raise UnsupportedError(f"a change of {name!r}, which is not low-rank,", by=_ME)
        wide = np.promote_types(np.float32, after.dtype)
        change = after.astype(wide) - before.astype(wide)
        factors = truncated_svd(change.reshape(change.shape[0], -1), self.rule)
        return Update(factors, before.shape[1:] if before.ndim == 4 else None)


_ME = "format 'merged'"


def _by_weight(modules: Mapping[str, Update], base: Weights) -> dict[str, Update]:
    named = {_weight_name(module, base): update for module, update in modules.items()}
    if len(named) < len(modules):
        raise UnsupportedError("one weight under two spellings", by=_ME)
    return named


def _in_numpy(factors: LowRank) -> LowRank:
    return LowRank(to_storage(factors.A), to_storage(factors.B), factors.scale)


def _weight_name(module: str, base: Weights) -> str:
    for spelling in spellings(module):
        if (name := f"{spelling}.weight") in base:
            return name
    close = nearest(f"{module}.weight", base)
    expected = "a module of the base"
    raise ConfigError(ConfigProblem(key="adapter", expected=expected, got=module, nearest=close))


def _without_1x1(shape: tuple[int, ...]) -> tuple[int, ...]:
    # The same layer is a Linear in one version of a model and a 1x1 convolution in another.
    return shape[:2] if shape[2:] == (1, 1) else shape
