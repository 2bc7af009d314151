"""Text in the header of adapter files: what travels, and what kohya's readers look for."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter
from loricate.adapters.family import family_of
from loricate.adapters.keys import COMPONENT_KEY, HEADER_KEY
from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import ConfigError, ConfigProblem

__all__ = ["kept", "kohya_metadata", "stated_component"]

# What a file says about itself, which is not true of the next one.
_OWN = frozenset(
    {
        "format",
        HEADER_KEY,
        COMPONENT_KEY,
        "modelspec.architecture",
        "modelspec.hash_sha256",
        "modelspec.implementation",
        "modelspec.sai_model_spec",
        "ss_network_alpha",
        "ss_network_args",
        "ss_network_dim",
        "ss_network_module",
        "sshs_legacy_hash",
        "sshs_model_hash",
    }
)
_VERSIONS: Mapping[sgm.Family, str] = {
    "sd1": "sd_v1",
    "sd2": "sd_v2",
    "sdxl": "sdxl_base_v1-0",
}
# Of 2.x there are two architectures, which differ in nothing a LoRA shows.
_ARCHITECTURES: Mapping[sgm.Family, tuple[str, str]] = {
    "sd1": ("stable-diffusion-v1/lora", "diffusers"),
    "sdxl": (
        "stable-diffusion-xl-v1-base/lora",
        "https://github.com/Stability-AI/generative-models",
    ),
}
_LEGACY_HASH = slice(0x100000, 0x110000)


def kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """The part of a header that is about the adapter and not about its file."""
    return {key: text for key, text in metadata.items() if key not in _OWN}


def stated_component(given: str | None, file: TensorFile) -> str:
    """Component of a file whose names do not say it.

    Args:
        given: What the caller says it is.
        file: The file, whose header may say it too.

    Raises:
        ConfigError: Nobody says it, or the two differ.
    """
    stated = file.metadata.get(COMPONENT_KEY)
    component = given or stated
    if component is None or stated not in (None, component):
        expected = "a component, which this file does not say"
        expected = expected if stated is None else f"{stated!r}, as in the header"
        problem = ConfigProblem(key="component", expected=expected, got=component)
        raise ConfigError(problem, file=file.path)
    return component


def kohya_metadata(adapter: Adapter, tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, str]:
    """Header of a kohya file.

    Args:
        adapter: What is written.
        tensors: The tensors of the file.
    """
    family = family_of(adapter)
    training = {
        **{key: text for key, text in adapter.metadata.items() if key.startswith("ss_")},
        **_network(tensors),
        **_base(family),
    }
    # The legacy hash is taken of the file as if nothing but these stood in its header.
    alone = save(dict(tensors), training)
    data = memoryview(alone)[8 + int.from_bytes(alone[:8], "little") :]
    return {
        **kept(adapter.metadata),
        **training,
        **_model_spec(family, adapter.metadata.get("modelspec.title", "LoRA")),
        "sshs_model_hash": hashlib.sha256(data).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(alone[_LEGACY_HASH]).hexdigest()[:8],
    }


def _network(tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, str]:
    downs = [tensor for key, tensor in tensors.items() if key.endswith(".lora_down.weight")]
    kernels = [down for down in downs if down.shape[2:] not in ((), (1, 1))]
    dim = _common({len(down) for down in downs if down.shape[2:] in ((), (1, 1))})
    network = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": dim,
        "ss_network_alpha": dim,
    }
    if kernels:
        conv_dim = _common({len(down) for down in kernels})
        network["ss_network_args"] = json.dumps({"conv_dim": conv_dim, "conv_alpha": conv_dim})
    return network


def _common(ranks: set[int]) -> str:
    return str(*ranks) if len(ranks) == 1 else "Dynamic"


def _base(family: sgm.Family | None) -> dict[str, str]:
    if family is None or family not in _VERSIONS:
        return {}
    base = {"ss_base_model_version": _VERSIONS[family]}
    return base if family == "sdxl" else {**base, "ss_v2": str(family == "sd2")}


def _model_spec(family: sgm.Family | None, title: str) -> dict[str, str]:
    if family is None or family not in _ARCHITECTURES:
        return {}
    architecture, implementation = _ARCHITECTURES[family]
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": architecture,
        "modelspec.implementation": implementation,
        "modelspec.title": title,
    }
