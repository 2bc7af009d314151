"""Adapter files whose tensors replace, contradict, shadow or reach nothing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import final

import numpy as np

from loricate.adapters.adapter import Target
from loricate.adapters.keys import BASE_DIGEST, COMPONENT_KEY, HEADER_KEY
from loricate.adapters.tensors import save_tensors
from loricate.basics.arrays import Array
from loricate.integrity.finding import Severity
from loricate.testing.corpora._adapters import (
    Plan,
    adapter_for,
    kohya_name,
    kohya_tensors,
    peft_folder,
    spelled,
)
from loricate.testing.corpora._case import Build, Case
from loricate.testing.corpora._layers import embedded, stable_diffusion

__all__ = ["NAMES"]

_HIGH, _MEDIUM, _LOW = Severity.HIGH, Severity.MEDIUM, Severity.LOW
_CROSS = r"^mid_block.*attn2\.to_[qk]$"
_FIRST = Target("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_q")


@final
@dataclass(frozen=True, kw_only=True)
class _Kohya:
    """Builds a sound kohya file with something added.

    Args:
        more: Tensors that are added.
        metadata: Text for the header.
        without: Names of tensors that are left out.
    """

    more: Mapping[str, Array] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()

    def __call__(self, folder: Path) -> Path:
        tensors = kohya_tensors(adapter_for(embedded("unet", _CROSS))) | dict(self.more)
        kept = {name: tensor for name, tensor in tensors.items() if name not in self.without}
        save_tensors(folder / "lora.safetensors", kept, self.metadata)
        return folder / "lora.safetensors"


def _alone(tensors: Mapping[str, Array]) -> Build:
    def build(folder: Path) -> Path:
        save_tensors(folder / "lora.safetensors", dict(tensors))
        return folder / "lora.safetensors"

    return build


def _pair(name: str, down: str = ".lora_down.weight", up: str = ".lora_up.weight") -> Build:
    """A second pair for the first module, under another name."""

    def build(folder: Path) -> Path:
        own = {_FIRST: embedded("unet", _CROSS)[_FIRST]}
        other = spelled(adapter_for(own, Plan(seed=1, size=0.5)), down, up, lambda target: name)
        return _Kohya(more=other)(folder)

    return build


def _diffusers(folder: Path, *, second: str | None = None, header: object = None) -> Path:
    adapter = adapter_for(embedded("unet", _CROSS))
    tensors = spelled(adapter, ".lora_A.weight", ".lora_B.weight")
    if second is not None:
        tensors |= spelled(adapter.scaled(9.0), f"{second}down.weight", f"{second}up.weight")
    metadata = {} if header is None else {HEADER_KEY: json.dumps(header)}
    save_tensors(folder / "pytorch_lora_weights.safetensors", tensors, metadata)
    return folder / "pytorch_lora_weights.safetensors"


def _two_generations(folder: Path) -> Path:
    return _diffusers(folder, second=".lora.")


def _alpha_against_the_header(folder: Path) -> Path:
    path = _diffusers(folder)
    adapter = adapter_for(embedded("unet", _CROSS))
    tensors = spelled(adapter, ".lora_A.weight", ".lora_B.weight")
    tensors |= {f"unet.{target.module}.alpha": np.float32(4.0) for target in adapter}
    header = {"unet.r": 4, "unet.lora_alpha": 4000}
    save_tensors(path, tensors, {HEADER_KEY: json.dumps(header)})
    return path


def _config_against_the_header(folder: Path) -> Path:
    header = {"base_model.model.r": 4, "base_model.model.lora_alpha": 4}
    metadata = {HEADER_KEY: json.dumps(header), COMPONENT_KEY: "unet"}
    adapter = adapter_for(embedded("unet", _CROSS))
    return peft_folder(folder, adapter, config={"lora_alpha": 4000}, metadata=metadata)


def _config_against_tensors(folder: Path) -> Path:
    adapter = adapter_for(embedded("unet", _CROSS))
    more = {f"base_model.model.{target.module}.alpha": np.float32(0.04) for target in adapter}
    return peft_folder(folder, adapter, metadata={COMPONENT_KEY: "unet"}, more=more)


def _one_module_against_the_header(folder: Path) -> Path:
    adapter = adapter_for(embedded("unet", _CROSS))
    plain = {"r": 4, "lora_alpha": 4}
    header = {f"base_model.model.{key}": value for key, value in plain.items()}
    metadata = {HEADER_KEY: json.dumps(header), COMPONENT_KEY: "unet"}
    config = {"alpha_pattern": {f"^{_FIRST.module}".replace(".", r"\."): 400}}
    return peft_folder(folder, adapter, config=config, metadata=metadata)


def _two_text_prefixes(folder: Path) -> Path:
    layers = stable_diffusion("sd1", "text_encoder", r"layers\.[01]\.self_attn")
    tensors = kohya_tensors(adapter_for(layers))
    other = kohya_tensors(adapter_for(layers, Plan(seed=1)))
    renamed = {name.replace("lora_te_", "lora_te1_"): array for name, array in other.items()}
    save_tensors(folder / "lora.safetensors", tensors | renamed)
    return folder / "lora.safetensors"


def _twice_in_peft(folder: Path) -> Path:
    adapter = adapter_for(embedded("unet", _CROSS))
    more = spelled(
        adapter_for(embedded("unet", _CROSS), Plan(seed=1)),
        ".lora_A.default.weight",
        ".lora_B.default.weight",
        lambda target: f"base_model.model.{target.module}",
    )
    return peft_folder(folder, adapter, metadata={COMPONENT_KEY: "unet"}, more=more)


def _bare(folder: Path) -> Path:
    """Pairs as trainers of Mochi name them, thousands of times too large."""
    adapter = adapter_for(embedded("unet", _CROSS), Plan(size=4000.0))
    tensors = spelled(
        adapter, ".lora_A", ".lora_B", lambda target: f"diffusion_model.{target.module}"
    )
    return _alone(tensors)(folder)


def _two_numberings(folder: Path) -> Path:
    """One transformer by its number in diffusers, and by its number in single files."""
    layers = stable_diffusion("sd1", "unet", r"^down_blocks\.0\.attentions\.0\..*attn1\.to_q$")
    diffusers = kohya_tensors(adapter_for(layers))
    single = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    other = kohya_tensors(adapter_for(layers, Plan(seed=1)), lambda target: single)
    save_tensors(folder / "lora.safetensors", diffusers | other)
    return folder / "lora.safetensors"


def _another_family(folder: Path) -> Path:
    tensors = kohya_tensors(adapter_for(stable_diffusion("sd1", "unet", r"^down_blocks\.[12]")))
    save_tensors(folder / "lora.safetensors", tensors)
    return folder / "lora.safetensors"


def _another_width(folder: Path) -> Path:
    layers = embedded("unet", _CROSS)
    wider = {t: layer._replace(shape=(layer.shape[0], 768)) for t, layer in layers.items()}
    save_tensors(folder / "lora.safetensors", kohya_tensors(adapter_for(wider)))
    return folder / "lora.safetensors"


def _one_foreign_module(folder: Path) -> Path:
    layers = embedded("unet", _CROSS)
    foreign = {Target("unet", "mid_block.attentions.1.proj_in"): layers[_FIRST]}
    adapter = adapter_for({**layers, **foreign})
    tensors = spelled(adapter, ".lora_A.weight", ".lora_B.weight")
    save_tensors(folder / "pytorch_lora_weights.safetensors", tensors)
    return folder / "pytorch_lora_weights.safetensors"


def _another_base(folder: Path) -> Path:
    adapter = replace(
        adapter_for(embedded("unet", _CROSS)), metadata={f"{BASE_DIGEST}.unet": "0" * 64}
    )
    save_tensors(folder / "lora.safetensors", kohya_tensors(adapter), dict(adapter.metadata))
    return folder / "lora.safetensors"


def _case(
    name: str, build: Build, rule: str, severity: Severity, *, needs_base: bool = False
) -> Case:
    return Case(name=name, build=build, expects={rule: severity}, needs_base=needs_base)


_MODULE = kohya_name(_FIRST)
_OUT = "lora_unet_conv_out"
_ZEROS = np.zeros((8, 8), np.float32)
_REPLACING: Mapping[str, Mapping[str, Array]] = {
    "set_weight": {f"{_OUT}.set_weight": np.zeros((24, 64, 3, 3), np.float32)},
    "diff": {f"{_OUT}.diff": np.zeros((24, 64, 3, 3), np.float32)},
    "diff_b": {f"{_OUT}.diff_b": np.zeros(24, np.float32)},
    "replaced_norm": {
        "lora_unet_conv_norm_out.w_norm": np.ones(64, np.float32),
        "lora_unet_conv_norm_out.b_norm": np.zeros(64, np.float32),
    },
    "reshape_weight": {f"{_OUT}.reshape_weight": np.array([48, 64, 3, 3])},
    "whole_weight": {"unet.conv_out.weight": np.zeros((24, 64, 3, 3), np.float32)},
}
_QUARTET = {f"{_MODULE}.{side}.weight": _ZEROS for side in ("a1", "a2", "b1", "b2")}
_SCALED = {f"unet.{_FIRST.module}.on_input": np.ones(192, np.float32)}
_WHOLE = _REPLACING["whole_weight"]
# Without a plain pair, these alone have to tell that the file is an adapter.
_BESIDE_OTHERS: Mapping[str, Mapping[str, Array]] = {
    "whole_weight_beside_glora": {**_QUARTET, **_WHOLE},
    "whole_weight_beside_ia3": {**_SCALED, **_WHOLE},
}
_UNREACHABLE: Mapping[str, Mapping[str, Array]] = {
    "unknown_tensor": {"payload.blob": np.frombuffer(bytes(range(256)), np.uint8)},
    "vae_in_a_kohya_file": {
        "lora_vae_encoder_conv_in.lora_down.weight": np.ones((4, 27), np.float32),
        "lora_vae_encoder_conv_in.lora_up.weight": np.ones((16, 4), np.float32),
    },
    "cyrillic_letter_in_a_suffix": {f"{_MODULE}.lor\u0430_down.weight": _ZEROS},
    "factor_without_its_pair": {f"{_OUT}.lora_down.weight": _ZEROS},
    "component_of_no_pipeline": {
        "controlnet.conv_in.lora_A.weight": _ZEROS,
        "controlnet.conv_in.lora_B.weight": _ZEROS,
    },
    "magnitudes_that_pipelines_drop": {f"{_MODULE}.dora_scale": np.ones((192, 1), np.float32)},
}
_HASHES: Mapping[str, Mapping[str, str]] = {
    "hash_of_kohya": {"sshs_model_hash": "0" * 64},
    "hash_of_modelspec": {"modelspec.hash_sha256": f"0x{'ab' * 32}"},
}
_SHADOWS: Mapping[str, Build] = {
    "names_of_comfy_and_kohya": _pair(
        "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q"
    ),
    "names_of_diffusers_and_kohya": _pair(
        f"unet.{_FIRST.module}", ".lora_A.weight", ".lora_B.weight"
    ),
    "names_with_and_without_weight": _pair(f"unet.{_FIRST.module}", ".lora_A", ".lora_B"),
    "both_suffixes_at_one_module": _pair(_MODULE, ".lora_A.weight", ".lora_B.weight"),
    "two_generations_of_names": _two_generations,
    "two_prefixes_of_one_text_encoder": _two_text_prefixes,
    "two_adapter_names_in_peft": _twice_in_peft,
    "two_numberings_of_blocks": _two_numberings,
}
_CONFLICTS: Mapping[str, tuple[Build, Severity]] = {
    "config_against_header": (_config_against_the_header, _HIGH),
    "tensors_against_header": (_alpha_against_the_header, _HIGH),
    "config_against_tensors": (_config_against_tensors, _HIGH),
    "one_module_against_header": (_one_module_against_the_header, _HIGH),
    "trainer_against_tensors": (
        _Kohya(metadata={"ss_network_alpha": "0.5", "ss_network_dim": "4"}),
        _LOW,
    ),
}
_FOREIGN: Mapping[str, Build] = {
    "adapter_of_another_family": _another_family,
    "adapter_of_another_width": _another_width,
    "one_module_the_base_lacks": _one_foreign_module,
}

NAMES = (
    Case(
        name="pairs_without_weight",
        build=_bare,
        expects={"absolute_norm": _HIGH, "norm_outlier": _HIGH},
        needs_base=True,
    ),
    *(_case(n, _Kohya(more=more), "full_replace", _HIGH) for n, more in _REPLACING.items()),
    *(_case(n, _alone(more), "full_replace", _HIGH) for n, more in _BESIDE_OTHERS.items()),
    _case(
        "bundled_embedding",
        _Kohya(more={"bundle_emb.person.string_to_param.*": np.ones((2, 192), np.float32)}),
        "bundled_embedding",
        _MEDIUM,
    ),
    *(_case(n, build, "alpha_conflict", level) for n, (build, level) in _CONFLICTS.items()),
    *(_case(n, build, "key_shadow", _HIGH) for n, build in _SHADOWS.items()),
    *(_case(n, _Kohya(more=more), "unreachable_keys", _MEDIUM) for n, more in _UNREACHABLE.items()),
    *(_case(n, b, "foreign_modules", _MEDIUM, needs_base=True) for n, b in _FOREIGN.items()),
    *(_case(n, _Kohya(metadata=text), "hash_mismatch", _HIGH) for n, text in _HASHES.items()),
    _case("digest_of_another_base", _another_base, "hash_mismatch", _HIGH, needs_base=True),
)
"""What an adapter file should not hold, and names that programs resolve in different ways."""
