"""Model with the update written into its weights: folders, checkpoints and VAE files."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.baked_files import BakedTensor, Baking, bake_part
from loricate.adapters.baking import FLOATS
from loricate.adapters.format import Format
from loricate.adapters.parts import Part, as_single_vae, open_parts, step_of, write_copy
from loricate.adapters.slots import slots_of
from loricate.adapters.weights import (
    StoredArray,
    Weights,
    component_folder,
    open_model,
    open_weights,
)
from loricate.basics.arrays import dtype_name
from loricate.basics.errors import ConfigError, ConfigProblem, ShapeError, UnsupportedError
from loricate.lowrank.rules import EnergyRank, RankRule
from loricate.lowrank.svd import truncated_svd

__all__ = ["Merged"]

# What rounding the merged weights to their dtype did looks like an update of full rank.
_ABOVE_ROUNDING = EnergyRank(0.9999)

_ME = "format 'merged'"


@final
@dataclass(frozen=True, kw_only=True)
class Merged(Format):
    """Drop-in copy of a base, for loaders that know no adapters.

    A checkpoint in one file becomes another in the same layout, a component folder another
    component folder, a diffusers folder a complete diffusers folder. An autoencoder also becomes
    a VAE file for user interfaces, if the path ends in ``.safetensors``.

    Args:
        base: Safetensors file, folder of the base component, or the diffusers folder around it.
        component: Component of the adapter to merge, and the only one written of a folder;
            ``None`` takes all of the adapter and writes the whole model.
        dtype: Name of the dtype all floats are stored in; ``None`` keeps that of each base
            tensor, to which the sum is rounded once.
        rule: Rank kept when an adapter is read back.
        vae_prefix: Prefix of the names in a VAE file made of a folder.
    """

    base: Path
    component: str | None = "vae"
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    rule: RankRule = _ABOVE_ROUNDING
    vae_prefix: Literal["", "first_stage_model."] = ""

    def read(self, path: Path) -> Adapter:
        """Adapter that leads from the base to a merged model, by SVD of the differences."""
        updates: dict[Target, Update] = {}
        for component, before, after in self._components(Path(path)):
            if before.keys() != after.keys():
                differing = sorted(before.keys() ^ after.keys())
                raise UnsupportedError(
                    f"another set of tensors than the base, {differing[:3]},", by=_ME
                )
            for module, update in self._differences(component, before, after):
                updates[Target(component, module)] = update
        return Adapter(updates)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Write the base with the adapter merged, and its configuration."""
        self.bake(adapter, Path(path))

    def bake(
        self,
        adapter: Adapter,
        path: Path,
        *,
        provenance: Mapping[str, str] | None = None,
        observe: Callable[[int, int], None] = lambda done, total: None,
    ) -> tuple[BakedTensor, ...]:
        """Write the base with the adapter merged, and say what rounding cost.

        Args:
            adapter: What to merge.
            path: File or folder.
            provenance: What the header says about the update. A record of the base is then kept
                beside each file of weights, from which the base can be restored to the bit.
            observe: Called with (done, total) after each tensor.

        Returns:
            One entry for each tensor that is not the base's.

        Raises:
            ConfigError: The base lacks a component or module, or is at the path itself.
            ShapeError: An update does not fit its weight.
            UnsupportedError: A layout cannot hold what is asked for.
            NumericalError: A value does not fit into the dtype.
        """
        parts = self.parts(adapter, path)
        how = Baking(dtype=self.dtype, provenance=provenance, observe=step_of(parts, observe))
        baked: list[BakedTensor] = []
        write_copy(self._root, path, parts, lambda part, at: baked.extend(bake_part(part, at, how)))
        return tuple(baked)

    def parts(self, adapter: Adapter, path: Path) -> tuple[Part, ...]:
        """The files of the base that an adapter changes, as they are laid out at a path.

        Args:
            adapter: What to merge.
            path: File or folder.

        Raises:
            ConfigError: The base lacks a component or module, or the path suits another layout.
            ShapeError: An update does not fit its weight.
            UnsupportedError: A layout cannot hold what is asked for.
        """
        if not adapter:
            raise UnsupportedError("an adapter without updates", by=_ME)
        if self.component is not None and adapter.components != (self.component,):
            hint = "pick the component with Adapter.only"
            raise UnsupportedError(f"components {adapter.components}", by=_ME, hint=hint)
        is_file = path.suffix == ".safetensors"
        if self.base.is_file() and not is_file:
            expected = "a .safetensors file, as the base is one"
            raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(path)))
        parts = open_parts(self._root, adapter)
        if not is_file or self.base.is_file():
            return parts
        if adapter.components != ("vae",):
            hint = "name a folder"
            raise UnsupportedError(f"{adapter.components} in one file", by=_ME, hint=hint)
        return (as_single_vae(parts[0], self.vae_prefix),)

    @property
    def _root(self) -> Path:
        if self.component is None or not self.base.is_dir():
            return self.base
        return component_folder(self.base, self.component)

    def _components(self, path: Path) -> Iterator[tuple[str, Weights, Weights]]:
        if self.component is not None and self.base.is_dir():
            folder = component_folder(path, self.component)
            yield self.component, open_weights(self._root), open_weights(folder)
            return
        before, after = open_model(self.base), open_model(path)
        if self.component is not None and len(before) == len(after) == 1:
            # A file of one component does not say which.
            yield self.component, next(iter(before.values())), next(iter(after.values()))
            return
        for component in before.keys() & after.keys():
            if self.component in (None, component):
                yield component, before[component], after[component]

    def _differences(
        self, component: str, before: Weights, after: Weights
    ) -> Iterator[tuple[str, Update]]:
        changed = {name for name in before if not _is_same(name, before[name], after[name])}
        # The name in diffusers comes last, and is the one that adapters go by.
        modules = {slot: module for module, slot in slots_of(component, before).items()}
        low_rank = {slot.name for slot in modules if len(slot.shape(before)) in (2, 4)}
        if others := changed - low_rank:
            raise UnsupportedError(f"a change of {min(others)!r}, which is not low-rank,", by=_ME)
        for slot, module in modules.items():
            pair = slot.of(before), slot.of(after)
            if slot.name in changed and not _is_same(slot.name, *pair):
                yield module, self._difference(*pair)

    def _difference(self, before: StoredArray, after: StoredArray) -> Update:
        wide = np.promote_types(np.float32, after.dtype)
        change = after.astype(wide) - before.astype(wide)
        factors = truncated_svd(change.reshape(change.shape[0], -1), self.rule)
        return Update(factors, before.shape[1:] if before.ndim == 4 else None)


def _is_same(name: str, before: StoredArray, after: StoredArray) -> bool:
    if before.shape != after.shape:
        raise ShapeError(f"the shape of the base, {before.shape}", after.shape, where=name)
    is_float = dtype_name(before) in FLOATS
    return not is_float or np.array_equal(before, after.astype(before.dtype))
