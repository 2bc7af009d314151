"""PEFT adapter folder, for one component."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from loricate.adapters._card import write_card
from loricate.adapters.adapter import Adapter, Target
from loricate.adapters.format import AdapterFile, Format, ScaleSource
from loricate.adapters.formats._entries import Entry, as_file, entries_of
from loricate.adapters.formats._metadata import kept, stated_component
from loricate.adapters.formats._pairs import baked_pairs
from loricate.adapters.formats._peft_config import (
    PEFTConfig,
    config_table,
    header_config,
    header_table,
    read_config,
)
from loricate.adapters.keys import COMPONENT_KEY, HEADER_KEY
from loricate.adapters.names import canonical, without_tower
from loricate.adapters.tensors import TensorFile, save_tensors, staged_folder
from loricate.basics.arrays import Array
from loricate.basics.errors import UnsupportedError

__all__ = ["CONFIG", "PEFT", "WEIGHTS"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_ME = "format 'peft'"
_PREFIX = "base_model.model."
_LOADING = "PeftModel.from_pretrained(model, folder)"
_LOADING_TOWER = """\
# transformers >= 5.6 has CLIPTextModel without the level text_model
key_mapping = {} if hasattr(model, "text_model") else {r"^text_model\\.": ""}
PeftModel.from_pretrained(model, folder, key_mapping=key_mapping)"""


@final
@dataclass(frozen=True, kw_only=True)
class PEFT(Format):
    """Folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Loads with ``PeftModel.from_pretrained(model, folder)``, and in diffusers with
    ``model.load_lora_adapter(folder, weight_name="adapter_model.safetensors",
    prefix="base_model.model")``.

    Args:
        component: Component the folder is for. ``None`` takes the only one of the adapter when
            writing, and when reading the one in the header, which only our own files have.
        tower: Whether modules of a CLIP text encoder are written below ``text_model``. Since
            transformers 5.6 its ``CLIPTextModel`` lacks that level, and PEFT takes such a folder
            only with the ``key_mapping`` on the card; diffusers and older versions want it.
    """

    component: str | None = None
    tower: bool = True

    def read(self, path: Path) -> Adapter:
        """Adapter kept in a folder; ranks come from the tensors, scales from the config."""
        return self.open(path).adapter

    def open(self, path: Path) -> AdapterFile:
        """The same, with where the scale was stated and what was odd."""
        folder = Path(path)
        file = TensorFile(folder / WEIGHTS)
        tensors = entries_of(file, _ME, _PREFIX)
        configs: dict[ScaleSource, PEFTConfig] = {"config": read_config(folder / CONFIG)}
        if header := header_config(file, _PREFIX):
            configs["header"] = header
        component = stated_component(self.component, file)
        entries = (
            Entry(name=name, target=Target(component, canonical(component, name)), keys=keys)
            for name, keys in tensors.items()
        )
        return as_file(file, "peft", entries, lambda target: configs)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Keep an adapter of one component in a folder, with alpha == rank everywhere."""
        component = self._only_component(adapter)
        tensors: dict[str, Array] = {}
        for target, pair in baked_pairs(adapter, _ME):
            factors = zip("AB", pair, strict=True)
            short = None if self.tower else without_tower(target.module)
            name = _PREFIX + (short or target.module)
            tensors |= {f"{name}.lora_{side}.weight": factor for side, factor in factors}
        ranks = {target.module: rank for target, rank in adapter.ranks.items()}
        metadata = {**kept(adapter.metadata), **_header(component, ranks)}
        config = json.dumps(config_table(ranks), indent=2)
        with staged_folder(path) as folder:
            save_tensors(folder / WEIGHTS, tensors, metadata)
            (folder / CONFIG).write_text(f"{config}\n", encoding="utf-8")
            is_below = any(module.startswith("text_model.") for module in ranks) and self.tower
            write_card(folder, Path(path), adapter, _LOADING_TOWER if is_below else _LOADING)

    def _only_component(self, adapter: Adapter) -> str:
        components = adapter.components
        component = self.component or next(iter(components), None)
        if component is None:
            raise UnsupportedError("an adapter without updates", by=_ME)
        if components != (component,):
            hint = "write each component with Adapter.only to a folder of its own"
            raise UnsupportedError(f"components {components}", by=_ME, hint=hint)
        return component


def _header(component: str, ranks: Mapping[str, int]) -> dict[str, str]:
    table = header_table(ranks, _PREFIX)
    return {HEADER_KEY: json.dumps(table), COMPONENT_KEY: component}
