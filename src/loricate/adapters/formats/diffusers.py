"""Files of diffusers: one for a pipeline, or one for a lone model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from loricate.adapters._card import write_card
from loricate.adapters.adapter import Adapter, Target
from loricate.adapters.format import AdapterFile, Format, ScaleSource
from loricate.adapters.formats._entries import Entry, as_file, entries_of
from loricate.adapters.formats._metadata import kept, stated_component
from loricate.adapters.formats._pairs import baked_pairs
from loricate.adapters.formats._peft_config import (
    PEFTConfig,
    header_config,
    header_table,
)
from loricate.adapters.keys import COMPONENT_KEY, HEADER_KEY
from loricate.adapters.names import canonical, without_tower
from loricate.adapters.tensors import TensorFile, save_tensors, staged_folder
from loricate.basics.arrays import Array
from loricate.basics.errors import ConfigError, ConfigProblem, UnsupportedError

__all__ = ["COMPONENTS", "WEIGHTS", "Diffusers"]

COMPONENTS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
"""Parts of a pipeline that names in a file may begin with."""

WEIGHTS = "pytorch_lora_weights.safetensors"
"""Name diffusers gives to such files."""

_ME = "format 'diffusers'"
_ATTENTION = (".q_proj", ".k_proj", ".v_proj", ".out_proj")


@final
@dataclass(frozen=True, kw_only=True)
class Diffusers(Format):
    """File for ``pipe.load_lora_weights(folder, weight_name=...)``, or folder with that file.

    Pipelines leave out updates of a VAE without a word; ``pipe.vae.load_lora_adapter(folder,
    weight_name=..., prefix="vae")`` takes them from the same file.

    Args:
        component: Component of a file whose names do not say it, as ``save_lora_adapter`` of a
            model writes them; ``None`` takes the one in the header, which only our files have.
        lone: Whether to write such a file, for ``model.load_lora_adapter(file, prefix=None)``.
    """

    component: str | None = None
    lone: bool = False

    def read(self, path: Path) -> Adapter:
        """Adapter in a file, of any generation of names in any order."""
        return self.open(path).adapter

    def open(self, path: Path) -> AdapterFile:
        """The same, with where the scale was stated and what was odd."""
        file = TensorFile(path / WEIGHTS if path.is_dir() else path)
        tensors = entries_of(file, _ME)
        is_lone = not any(name.partition(".")[0] in COMPONENTS for name in tensors)
        lone = stated_component(self.component, file) if is_lone else None
        entries = [
            Entry(name=module, target=Target(owner, canonical(owner, module)), keys=keys)
            for name, keys in tensors.items()
            for owner, module in (_split(name, lone, file),)
        ]
        configs = {
            owner: _configs(file, "" if is_lone else f"{owner}.")
            for owner in {entry.target.component for entry in entries}
        }
        form = "diffusers-model" if is_lone else "diffusers"
        return as_file(file, form, entries, lambda target: configs[target.component])

    def write(self, adapter: Adapter, path: Path) -> None:
        """Keep an adapter in a file, in a folder of its own unless the path names the file."""
        tensors = self._tensors(adapter)
        metadata = {**kept(adapter.metadata), **self._header(adapter)}
        if path.suffix == ".safetensors":
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, tensors, metadata)
            return
        with staged_folder(path) as folder:
            save_tensors(folder / WEIGHTS, tensors, metadata)
            write_card(folder, path, adapter, _loading(adapter))

    def _tensors(self, adapter: Adapter) -> dict[str, Array]:
        if self.lone and len(adapter.components) != 1:
            hint = "write each component with Adapter.only to a file of its own"
            raise UnsupportedError(f"components {adapter.components}", by=_ME, hint=hint)
        if not self.lone and (unknown := sorted({*adapter.components} - {*COMPONENTS})):
            hint = "name the component, or use lone = true"
            raise UnsupportedError(f"component {unknown[0]!r}", by=_ME, hint=hint)
        sides = {owner: _sides(owner, adapter) for owner in adapter.components}
        tensors: dict[str, Array] = {}
        for target, pair in baked_pairs(adapter, _ME):
            name = target.module if self.lone else f"{target.component}.{target.module}"
            for side, factor in zip(sides[target.component], pair, strict=True):
                tensors[f"{name}.{side}.weight"] = factor
        return tensors

    def _header(self, adapter: Adapter) -> dict[str, str]:
        table: dict[str, Any] = {}
        for owner in adapter.components:
            ranks = {module: update.rank for module, update in adapter.modules(owner).items()}
            table |= header_table(ranks, "" if self.lone else f"{owner}.")
        header = {HEADER_KEY: json.dumps(table)}
        return {**header, COMPONENT_KEY: adapter.components[0]} if self.lone else header


def _split(name: str, lone: str | None, file: TensorFile) -> tuple[str, str]:
    owner, _, module = name.partition(".")
    if lone is not None:
        return lone, name
    if owner not in COMPONENTS:
        expected = f"a name that begins with one of {', '.join(COMPONENTS)}, as others do"
        raise ConfigError(ConfigProblem(key="key", expected=expected, got=name), file=file.path)
    return owner, module


def _configs(file: TensorFile, prefix: str) -> Mapping[ScaleSource, PEFTConfig]:
    config = header_config(file, prefix)
    return {} if config is None else {"header": config}


def _sides(component: str, adapter: Adapter) -> tuple[str, str]:
    # Pipelines tell the generation of CLIP's names from its attention, and fail without any.
    modules = adapter.modules(component)
    is_clip = component.startswith("text_encoder") and any(map(without_tower, modules))
    if is_clip and not any(module.endswith(_ATTENTION) for module in modules):
        return "lora_linear_layer.down", "lora_linear_layer.up"
    return "lora_A", "lora_B"


def _loading(adapter: Adapter) -> str:
    lines = [f'pipe.load_lora_weights(folder, weight_name="{WEIGHTS}", use_safetensors=True)']
    if adapter.components == ("vae",):
        lines = []
    if "vae" in adapter.components:
        lines.append(f'pipe.vae.load_lora_adapter(folder, weight_name="{WEIGHTS}", prefix="vae")')
    return "\n".join(lines)
