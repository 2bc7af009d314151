"""PEFT adapter folder, for one component."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.format import Format
from loricate.adapters.formats._peft_config import PEFTConfig, read_config
from loricate.adapters.tensors import TensorFile, save_tensors, staged_folder
from loricate.basics.arrays import Array
from loricate.basics.errors import ConfigError, ConfigProblem, ShapeError, UnsupportedError

__all__ = ["PEFT"]

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_TENSOR = re.compile(re.escape(_PREFIX) + r"(\w+(?:\.\w+)*)\.lora_([AB])\.weight", re.ASCII)

# Header keys: diffusers looks for the scale in the first, the second is ours.
_SCALE_KEY = "lora_adapter_metadata"
_COMPONENT_KEY = "loricate.component"
_RESERVED = frozenset({"format", _SCALE_KEY, _COMPONENT_KEY})


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
    """

    component: str | None = None

    def read(self, path: Path) -> Adapter:
        """Adapter kept in a folder; ranks come from the tensors, scales from the config."""
        config = read_config(Path(path) / _CONFIG)
        file = TensorFile(Path(path) / _WEIGHTS)
        component = self._stated_component(file)
        stated = _header_config(file)
        updates = {}
        for module, (a, b) in _pairs(file).items():
            scale = config.scale(module, a.shape[0])
            if stated and stated.scale(module, a.shape[0]) != scale:
                raise _problem(module, f"scale {scale}, as in {_CONFIG}", "another", file.path)
            updates[Target(component, module)] = _update(module, a, b, scale)
        kept = {key: text for key, text in file.metadata.items() if key not in _RESERVED}
        return Adapter(updates, kept)

    def write(self, adapter: Adapter, path: Path) -> None:
        """Keep an adapter of one component in a folder, with alpha == rank everywhere."""
        component = self._only_component(adapter)
        modules = adapter.modules(component)
        if empty := [module for module, update in modules.items() if update.rank == 0]:
            raise UnsupportedError(f"rank 0 at {empty[0]!r}", by="format 'peft'")
        config = _config_table({module: update.rank for module, update in modules.items()})
        tensors: dict[str, Array] = {}
        for module, update in modules.items():
            factors = zip("AB", update.pair(), strict=True)
            tensors |= {f"{_PREFIX}{module}.lora_{name}.weight": factor for name, factor in factors}
        metadata = {**adapter.metadata, **_header(component, config)}
        with staged_folder(path) as folder:
            save_tensors(folder / _WEIGHTS, tensors, metadata)
            (folder / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def _stated_component(self, file: TensorFile) -> str:
        stated = file.metadata.get(_COMPONENT_KEY)
        component = self.component or stated
        if component is None:
            raise _problem(
                "component", "a component, which this file does not say", None, file.path
            )
        if stated not in (None, component):
            raise _problem("component", f"{stated!r}, as in the header", component, file.path)
        return component

    def _only_component(self, adapter: Adapter) -> str:
        components = adapter.components
        component = self.component or next(iter(components), None)
        if component is None:
            raise UnsupportedError("an adapter without updates", by="format 'peft'")
        if components != (component,):
            hint = "write each component with Adapter.only to a folder of its own"
            raise UnsupportedError(f"components {components}", by="format 'peft'", hint=hint)
        return component


def _pairs(file: TensorFile) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Factors A and B of each module, copied into memory."""
    found: dict[str, dict[str, str]] = {}
    for key in file:
        match = _TENSOR.fullmatch(key)
        if match is None:
            raise UnsupportedError(f"the tensor {key!r}", by="format 'peft'")
        found.setdefault(match[1], {})[match[2]] = key
    for module, keys in found.items():
        if keys.keys() != {"A", "B"}:
            raise ShapeError("both lora_A and lora_B", sorted(keys), where=module)
    return {m: (np.array(file[keys["A"]]), np.array(file[keys["B"]])) for m, keys in found.items()}


def _update(module: str, a: np.ndarray, b: np.ndarray, scale: float) -> Update:
    try:
        return Update.from_factors(a, b, scale)
    except ShapeError as error:
        raise ShapeError(error.expected, error.got, where=module, hint=error.hint) from None


def _config_table(ranks: dict[str, int]) -> dict[str, Any]:
    # A list of names would match by their ends, and attach to modules that merely end alike.
    targets = "|".join(map(re.escape, ranks))
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "target_modules": f"(?:{targets})",
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
        **PEFTConfig.of_ranks(ranks).to_table(),
    }


def _header(component: str, config: dict[str, Any]) -> dict[str, str]:
    stated = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules")
    scale = {f"{_PREFIX}{key}": config[key] for key in stated}
    return {_SCALE_KEY: json.dumps(scale), _COMPONENT_KEY: component}


def _header_config(file: TensorFile) -> PEFTConfig | None:
    text = file.metadata.get(_SCALE_KEY)
    if text is None:
        return None
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise _problem(_SCALE_KEY, "a JSON object", text, file.path)
    return PEFTConfig.parse({k.removeprefix(_PREFIX): v for k, v in table.items()}, file.path)


def _problem(key: str, expected: str, got: object, file: Path) -> ConfigError:
    return ConfigError(ConfigProblem(key=key, expected=expected, got=got), file=file)
