"""One file in the naming of kohya's trainer, for ComfyUI, A1111 and diffusers alike."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import numpy as np

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter, Target
from loricate.adapters.family import family_of
from loricate.adapters.format import AdapterFile, Format
from loricate.adapters.formats._entries import Entry, as_file, entries_of
from loricate.adapters.formats._kohya_names import resolve, underscored
from loricate.adapters.formats._metadata import kohya_metadata
from loricate.adapters.formats._pairs import baked_pairs
from loricate.adapters.keys import COMFY_PREFIXES, KOHYA_PREFIXES
from loricate.adapters.names import canonical
from loricate.adapters.tensors import TensorFile, save_tensors, to_storage
from loricate.basics.errors import ConfigError, ConfigProblem, UnsupportedError

__all__ = ["Kohya"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_ME = "format 'kohya'"
_NUMBER = re.compile(r"\d+(\.\d*)?", re.ASCII)
_HINTS = {
    "vae": "no loader has names for a VAE in such files; bake it, or use format 'merged'",
    "transformer": "use format 'diffusers' or 'peft'",
    "model": "name the component",
}


@final
@dataclass(frozen=True, kw_only=True)
class Kohya(Format):
    """One ``.safetensors`` file for user interfaces: kohya's names, and ComfyUI's when reading.

    Loads in ComfyUI, in A1111 and with ``pipe.load_lora_weights(folder, weight_name=...)``.
    Reads LoCon's convolutions and Tucker triples as well.

    Args:
        component: What names that begin with ``lycoris_`` belong to; other names say it.
        base: Model whose module names the underscores are resolved by; ``None`` knows Stable
            Diffusion 1.x, 2.x and XL.
        blocks: How blocks of a UNet are written; ``auto`` numbers them through for XL, as its
            trainer does, and counts them like diffusers for other families.
        pad: Whether all updates of a component get its highest rank, by zeros that reading drops.
            diffusers (0.42) takes one alpha for all attention layers, so that files of mixed
            ranks load there at a wrong scale; for user interfaces alone, padding only costs size.
    """

    component: str | None = None
    base: Path | None = None
    blocks: Literal["auto", "diffusers", "sgm"] = "auto"
    pad: bool = True

    def read(self, path: Path) -> Adapter:
        """Adapter in a file; a scale that is not stated, or 0, means alpha == rank."""
        return self.open(path).adapter

    def open(self, path: Path) -> AdapterFile:
        """The same, with where the scale was stated and what was odd."""
        file = TensorFile(path)
        tensors = entries_of(file, _ME)
        generic = [name for name in tensors if name.startswith(tuple(COMFY_PREFIXES))]
        others = [name for name in tensors if not name.startswith(tuple(COMFY_PREFIXES))]
        targets = {name: _generic_target(name, file) for name in generic}
        targets |= resolve(others, file.path, component=self.component, base=self.base)
        entries = (
            Entry(name=name, target=targets[name], keys=keys) for name, keys in tensors.items()
        )
        form = "comfy" if generic else "kohya"
        found = as_file(file, form, entries, lambda target: {}, _notes(file))
        return replace(found, adapter=_trimmed(found.adapter))

    def write(self, adapter: Adapter, path: Path) -> None:
        """Keep an adapter in a file, with alpha == rank at every module."""
        if path.suffix != ".safetensors":
            expected = "a file that ends in .safetensors"
            raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(path)))
        tensors: dict[str, _Array] = {}
        names = self._names(adapter)
        ranks = _highest_ranks(adapter) if self.pad else {}
        for target, pair in baked_pairs(adapter, _ME):
            name = names[target]
            a, b = map(to_storage, pair)
            missing = max(0, ranks.get(target.component, 0) - len(a))
            a, b = (_padded(factor, axis, missing) for axis, factor in enumerate((a, b)))
            tensors[f"{name}.lora_down.weight"] = a
            tensors[f"{name}.lora_up.weight"] = b
            # Float32, as half precision cannot hold every rank.
            tensors[f"{name}.alpha"] = np.asarray(len(a), np.float32)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(path, tensors, kohya_metadata(adapter, tensors))

    def _names(self, adapter: Adapter) -> Mapping[Target, str]:
        components = set(adapter.components)
        for component in sorted(components - set(KOHYA_PREFIXES.values())):
            hint = _HINTS.get(component)
            raise UnsupportedError(f"component {component!r}", by=_ME, hint=hint)
        family = family_of(adapter)
        is_xl = family in ("sdxl", "refiner") or "text_encoder_2" in components
        prefixes = {component: prefix for prefix, component in reversed(KOHYA_PREFIXES.items())}
        if is_xl:
            prefixes["text_encoder"] = "lora_te1_"
        spelling = _numbered_blocks(adapter, family, self.blocks)
        names = {}
        for target in adapter:
            module = spelling.get(target, target.module)
            names[target] = prefixes[target.component] + underscored(module)
        return names


def _numbered_blocks(adapter: Adapter, family: sgm.Family | None, blocks: str) -> dict[Target, str]:
    if blocks == "diffusers" or (blocks == "auto" and family not in ("sdxl", "refiner")):
        return {}
    if family is None:
        hint = "use blocks = 'diffusers'"
        raise UnsupportedError("numbered blocks of an unknown family", by=_ME, hint=hint)
    unet = sgm.modules("unet", family)
    return {target: unet[target.module] for target in adapter if target.component == "unet"}


def _highest_ranks(adapter: Adapter) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for target, rank in adapter.ranks.items():
        ranks[target.component] = max(rank, ranks.get(target.component, 0))
    return ranks


def _padded(factor: _Array, axis: int, n_zeros: int) -> _Array:
    zeros = np.zeros((*factor.shape[:axis], n_zeros, *factor.shape[axis + 1 :]), factor.dtype)
    return np.concatenate([factor, zeros], axis=axis)


def _trimmed(adapter: Adapter) -> Adapter:
    """The adapter without trailing components that are zero in both factors."""
    updates = {}
    for target, update in adapter.items():
        factors = update.factors
        if factors.A[-1].any() or factors.B[:, -1].any():
            updates[target] = update
            continue
        used = np.flatnonzero(factors.A.any(axis=1) | factors.B.any(axis=0))
        rank = max(1, int(used.max(initial=0)) + 1)
        kept = replace(factors, A=factors.A[:rank], B=factors.B[:, :rank])
        updates[target] = replace(update, factors=kept)
    return replace(adapter, updates=updates)


def _generic_target(name: str, file: TensorFile) -> Target:
    prefix = next(filter(name.startswith, COMFY_PREFIXES))
    component, module = COMFY_PREFIXES[prefix], name.removeprefix(prefix)
    # Text towers of ComfyUI have their names in transformers already.
    found = sgm.to_diffusers(component, module) if component == "unet" else module
    if found is None:
        expected = "a module of Stable Diffusion's UNet"
        raise ConfigError(ConfigProblem(key="unet", expected=expected, got=name), file=file.path)
    return Target(component, canonical(component, found))


def _notes(file: TensorFile) -> list[str]:
    alpha, dim = (file.metadata.get(f"ss_network_{key}") for key in ("alpha", "dim"))
    said = f"the header says ss_network_alpha {alpha!r}"
    keys = [key for key in file if key.endswith(".alpha")]
    if not keys and alpha not in (None, dim):
        return [f"{said} at rank {dim!r}, which no loader reads"]
    # Not a number where modules differ: "Dynamic" or "None".
    if alpha is None or not _NUMBER.fullmatch(alpha):
        return []
    # 0 means that nobody set it.
    stored = {float(value) for key in keys for value in np.ravel(file[key]) if value}
    if not stored or any(math.isclose(float(alpha), each, rel_tol=2**-8) for each in stored):
        return []
    listed = " to ".join(f"{each:g}" for each in sorted({min(stored), max(stored)}))
    return [f"{said} and the tensors {listed}, which all loaders go by"]
