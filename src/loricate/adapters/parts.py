"""The files of a model that an adapter changes, and a copy of the model with them rewritten."""

import itertools
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import final

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter, Update
from loricate.adapters.baking import FLOATS, Patch
from loricate.adapters.names import spellings
from loricate.adapters.slots import Slot, find_slot, slots_of, without_ones
from loricate.adapters.staging import require_apart, staged
from loricate.adapters.weights import (
    Weights,
    component_folder,
    open_file,
    open_model,
    open_weights,
)
from loricate.basics.arrays import dtype_name, require_finite
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    ShapeError,
    UnsupportedError,
)

__all__ = ["Part", "as_single_vae", "open_parts", "step_of", "write_copy"]

_BY = "merging"
_UNKNOWN = "model"
_SINGLE_VAE = "the single-file form of Stable Diffusion's autoencoder"
_FINEST = "decoder.up.0.block.0.conv1.weight"
_WEIGHT_FILES = (
    ".safetensors",
    ".bin",
    ".ckpt",
    ".pt",
    ".msgpack",
    ".h5",
    ".index.json",
    ".unbake",
)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """Weights that end up in one file, with the updates they take.

    Args:
        weights: All tensors of the file, by the names they have in it.
        patches: What is added to which of them.
        folder: Folder of the component in the base; ``None`` for a single file.
    """

    weights: Weights
    patches: Mapping[str, Sequence[Patch]]
    folder: Path | None = None

    @property
    def file(self) -> Path:
        """File of the base that the weights come from, the first if there are several."""
        return min(file.path for file, _ in self.weights.sources.values())

    @property
    def metadata(self) -> dict[str, str]:
        """Text in the header of the base."""
        files = {file.path: file for file, _ in self.weights.sources.values()}
        return dict(next(iter(files.values())).metadata) if len(files) == 1 else {}


def open_parts(base: Path, adapter: Adapter) -> tuple[Part, ...]:
    """What an adapter changes in a model.

    Args:
        base: A diffusers folder, the folder of one component, or a safetensors file in any
            naming.
        adapter: The updates.

    Returns:
        One part for a file, otherwise one for each component of the adapter.

    Raises:
        ConfigError: The base lacks a component or a module, or is the folder of one component
            where the adapter has several.
        ShapeError: An update does not fit its weight.
        UnsupportedError: A weight is stored in integers or eight bits, or is hit twice.
        NumericalError: An update holds NaN or infinity.
    """
    if base.is_file():
        return (_part_of_file(base, adapter),)
    folders = {component: component_folder(base, component) for component in adapter.components}
    if len({*folders.values()}) < len(folders):
        expected = "the only component in the folder, as the adapter has several"
        raise ConfigError(ConfigProblem(key="component", expected=expected, got=[*folders]))
    parts = []
    for component, folder in folders.items():
        weights = open_weights(folder)
        patches = _patches(component, weights, adapter.modules(component))
        parts.append(Part(weights=weights, patches=patches, folder=folder))
    return tuple(parts)


def as_single_vae(part: Part, prefix: str = "") -> Part:
    """An autoencoder of diffusers under the names and shapes of single files.

    Args:
        part: The autoencoder.
        prefix: What stands in front of every name.

    Raises:
        UnsupportedError: It is of another kind than Stable Diffusion's.
    """
    renamed = {name: prefix + _single_file_name(name) for name in part.weights}
    if prefix + _FINEST not in renamed.values():
        raise UnsupportedError("an autoencoder of fewer levels", by=_SINGLE_VAE)
    weights = part.weights
    # Its attention is a 1x1 convolution there.
    kernels = {
        new: (*weights.shape(old), 1, 1)
        for old, new in renamed.items()
        if ".attn_" in new and len(weights.shape(old)) == 2
    }
    return Part(
        weights=Weights({renamed[old]: weights.sources[old] for old in weights}, "vae", kernels),
        patches={renamed[old]: patches for old, patches in part.patches.items()},
    )


def step_of(parts: Sequence[Part], observe: Callable[[int, int], None]) -> Callable[[], None]:
    """What to call after each tensor, so that ``observe`` gets (done, total)."""
    total = sum(len(part.weights) for part in parts)
    done = itertools.count(1)
    return lambda: observe(next(done), total)


def write_copy(
    base: Path, out: Path, parts: Sequence[Part], write: Callable[[Part, Path], None]
) -> None:
    """Write a copy of a model whose parts are rewritten, completely or not at all.

    A part without a folder becomes a file, a lone component a folder with its configuration. Of
    a whole pipeline everything else is copied, but for other weights of the same components,
    which the update is missing from.

    Args:
        base: What the parts were opened from.
        out: Destination.
        parts: What to rewrite.
        write: Writes the weights of one part to a path.

    Raises:
        ConfigError: The destination is the base, or lies in it or around it.
    """
    require_apart(out, [base])
    is_file = parts[0].folder is None
    if out.exists() and out.is_file() != is_file:
        kind = "file" if is_file else "folder"
        raise ConfigError(ConfigProblem(key="out", expected=f"a {kind}", got=str(out)))
    with staged(out) as stage:
        if all(part.folder not in (None, base) for part in parts):
            _copy_others(base, stage, {base, *(part.folder for part in parts)})
        for part in parts:
            if part.folder is None:
                write(part, stage)
                continue
            if part.folder == base:
                _copy_configuration(base, stage)
            folder = stage / part.folder.relative_to(base)
            write(part, folder / f"{part.weights.stem}.safetensors")


def _part_of_file(base: Path, adapter: Adapter) -> Part:
    components = open_model(base)
    patches: dict[str, Sequence[Patch]] = {}
    for component in adapter.components:
        is_lone = components.keys() == {_UNKNOWN} and len(adapter.components) == 1
        weights = components.get(_UNKNOWN if is_lone else component)
        if weights is None:
            expected = f"one of {', '.join(sorted(components))}, as in the file"
            raise ConfigError(
                ConfigProblem(key="component", expected=expected, got=component), file=base
            )
        found = _patches(component, weights, adapter.modules(component))
        patches |= {weights.sources[name][1]: listed for name, listed in found.items()}
    return Part(weights=open_file(base), patches=patches)


def _patches(
    component: str, weights: Weights, modules: Mapping[str, Update]
) -> dict[str, list[Patch]]:
    slots = slots_of(component, weights)
    updates: dict[Slot, Update] = {}
    for module, update in modules.items():
        slot = find_slot(slots, module)
        if slot in updates:
            raise UnsupportedError(f"the weight {slot.name!r} under two spellings", by=_BY)
        updates[slot] = update
    patches: dict[str, list[Patch]] = {}
    for slot, update in updates.items():
        patches.setdefault(slot.name, []).append(_patch(slot, update, weights))
    return patches


def _patch(slot: Slot, update: Update, weights: Weights) -> Patch:
    shape = slot.shape(weights)
    if without_ones(shape) != without_ones(update.weight_shape):
        raise ShapeError(f"a weight of shape {update.weight_shape}", shape, where=slot.name)
    if (dtype := dtype_name(weights.dtype(slot.name))) not in FLOATS:
        hint = "convert the base to float16 first"
        raise UnsupportedError(f"{slot.name!r} of dtype {dtype}", by=_BY, hint=hint)
    for factor in (update.factors.A, update.factors.B):
        require_finite(factor, where=slot.name)
    return Patch(slot.start(weights), update.factors, slot.transposed)


def _single_file_name(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    for spelling in spellings(module):
        if (renamed := sgm.to_sgm("vae", spelling, family="sd1")) is not None:
            return f"{renamed}.{leaf}"
    raise UnsupportedError(repr(name), by=_SINGLE_VAE)


def _copy_others(base: Path, target: Path, changed: Set[Path | None]) -> None:
    def weights(folder: str, names: Iterable[str]) -> set[str]:
        return {name for name in names if Path(folder) in changed and name.endswith(_WEIGHT_FILES)}

    shutil.copytree(base, target, ignore=weights)


def _copy_configuration(source: Path, target: Path) -> None:
    target.mkdir()
    for config in source.glob("*.json"):
        if not config.name.endswith(_WEIGHT_FILES):
            shutil.copyfile(config, target / config.name)
