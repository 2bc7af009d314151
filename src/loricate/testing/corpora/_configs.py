"""Configs that change the base, run patterns, import code or replace whole layers."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from loricate.adapters.keys import COMPONENT_KEY
from loricate.integrity.finding import Severity
from loricate.testing.corpora._adapters import Plan, adapter_for, peft_folder
from loricate.testing.corpora._case import Build, Case, file_of
from loricate.testing.corpora._layers import embedded

__all__ = ["CONFIGS"]

_CRITICAL, _HIGH, _MEDIUM = Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM
_CATASTROPHIC = "(a+)+$"


def _peft(**changes: object) -> Build:
    def build(folder: Path) -> Path:
        adapter = adapter_for(embedded("unet", r"^mid_block.*attn2\.to_[qk]$"), Plan())
        return peft_folder(folder, adapter, config=changes, metadata={COMPONENT_KEY: "unet"})

    return build


def _json(name: str, table: Mapping[str, object]) -> Build:
    def build(folder: Path) -> Path:
        (folder / name).write_text(json.dumps(table, indent=2), encoding="utf-8")
        return folder / name

    return build


def _encoded(before: str, encoding: str) -> Build:
    """A config that imports, as text that some readers of JSON take and others do not."""
    table = {"model_type": "x", "auto_map": {"AutoModel": "somebody/repository--modeling.Model"}}
    return file_of("config.json", (before + json.dumps(table)).encode(encoding))


def _shared_config(folder: Path) -> Path:
    """One config under two names, of which only one is read."""
    (folder / "notes.txt").write_text(json.dumps({"init_lora_weights": "pissa"}))
    (folder / "adapter_config.json").hardlink_to(folder / "notes.txt")
    return folder


def _linked_weights(folder: Path) -> Path:
    """Weights without a config, and a link to them that lies beside one."""
    weights, lora = folder / "a.safetensors", folder / "lora"
    lora.mkdir()
    peft = _peft(init_lora_weights="pissa")(lora)
    (peft / "adapter_model.safetensors").rename(weights)
    (peft / "adapter_model.safetensors").symlink_to(weights)
    return folder


def _header_config(folder: Path) -> Path:
    """The config in the header of the weights, where diffusers looks for it."""
    adapter = adapter_for(embedded("unet", r"^mid_block.*attn2\.to_[qk]$"), Plan())
    table = {"r": 4, "lora_alpha": 4, "rank_pattern": {_CATASTROPHIC: 4}}
    keys = {f"base_model.model.{key}": value for key, value in table.items()}
    metadata = {"lora_adapter_metadata": json.dumps(keys), COMPONENT_KEY: "unet"}
    return peft_folder(folder, adapter, metadata=metadata)


def _saved_modules(folder: Path) -> Path:
    adapter = adapter_for(embedded("unet", r"^mid_block.*attn2\.to_[qk]$"), Plan())
    extra = {"base_model.model.conv_out.weight": np.zeros((24, 64, 3, 3), np.float32)}
    config = {"modules_to_save": ["conv_out"]}
    return peft_folder(folder, adapter, config=config, metadata={COMPONENT_KEY: "unet"}, more=extra)


def _case(name: str, build: Build, rule: str, severity: Severity) -> Case:
    return Case(name=name, build=build, expects={rule: severity})


def _shadowed(folder: Path) -> Path:
    """A component of a known library, in whose folder a Python file has the library's name."""
    index = {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "vae").mkdir()
    (folder / "vae" / "diffusers.py").write_text("class AutoencoderKL: ...\n")
    return folder


def _own_pipeline(folder: Path) -> Path:
    index = {"_class_name": ["pipeline", "Pipeline"], "vae": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "pipeline.py").write_text("class Pipeline: ...\n")
    return folder


def _padded(name: str) -> Build:
    """A config behind which there are more blanks than anybody reads."""

    def build(folder: Path) -> Path:
        blanks = " " * 50_000_001
        (folder / name).write_text(f'{{"auto_map": {{"AutoModel": "modeling.Model"}}{blanks}}}')
        return folder / name

    return build


_MODEL = """
model:
  base_learning_rate: 1.0e-04
  target: %s
  params:
    linear_start: 0.00085
"""

_INITS = ("pissa", "pissa_niter_4", "olora", "corda", "loftq")

_PATTERNS: Mapping[str, Mapping[str, object]] = {
    "catastrophic_target_modules": {"target_modules": _CATASTROPHIC},
    "catastrophic_rank_pattern": {"rank_pattern": {_CATASTROPHIC: 4}},
    "catastrophic_alpha_pattern": {"alpha_pattern": {r"(.*)*x": 400}},
    "catastrophic_exclude_modules": {"exclude_modules": r"^(\w+\.?)+!$"},
    "catastrophic_layers_pattern": {"layers_pattern": r"(x*)*y"},
}

# Loaders call these without asking, with arguments of the file; files of the others have to be
# trusted first, or are only imported.
_TARGETS: Mapping[str, Build] = {
    "target_of_hydra": _json("config.json", {"_target_": "os.getcwd"}),
    "target_of_compvis": _json(
        "config.json", {"model": {"target": "subprocess.getoutput", "params": {"cmd": "id"}}}
    ),
    "target_of_hydra_in_yaml": file_of("config.yaml", b"a:\n  _target_: os.getcwd\n"),
    "target_of_compvis_in_yaml": file_of("lora.yaml", (_MODEL % "subprocess.Popen").encode()),
    "target_in_yaml_behind_a_line_of_a_script": file_of(
        "v1-inference.yaml", b"#! SD 1.5\nmodel:\n  _target_: os.getcwd\n"
    ),
    "target_in_yaml_that_begins_as_a_program": file_of("a.yml", b"MZ: 1\n_target_: os.getcwd\n"),
    "target_in_yaml_named_json": file_of("config.json", b"#! 1\n_target_: os.getcwd\n"),
    "target_in_yaml_in_one_line": file_of("a.yml", b'{"model": {target: "os.getcwd"}}'),
}

_MAPPINGS: Mapping[str, Build] = {
    "auto_mapping_of_a_foreign_library": _peft(
        auto_mapping={"base_model_class": "Model", "parent_library": "a_module_nobody_knows"}
    ),
    "auto_mapping_of_os": _peft(
        auto_mapping={"base_model_class": "system", "parent_library": "os"}
    ),
    "auto_mapping_of_a_look_alike": _peft(
        auto_mapping={"base_model_class": "UNet", "parent_library": "diffusers_fast.models"}
    ),
    "auto_map_of_a_model": _json(
        "config.json",
        {"model_type": "clip", "auto_map": {"AutoModel": "modeling_clip.Model"}},
    ),
    "auto_map_of_another_repository": _json(
        "config.json",
        {"model_type": "x", "auto_map": {"AutoModel": "somebody/repository--modeling.Model"}},
    ),
    "config_behind_blanks": _encoded(" \n" * 5000, "utf-8"),
    "config_behind_megabytes_of_blanks": _encoded("\t" * 3_000_000, "utf-8"),
    "config_behind_a_byte_order_mark": _encoded("\ufeff", "utf-8"),
    "config_in_utf_16": _encoded("\ufeff", "utf-16-le"),
    "config_in_unmarked_utf_16": _encoded(" " * 5000, "utf-16-be"),
    "config_in_utf_32": _encoded("\ufeff", "utf-32-be"),
    "auto_map_of_a_tokenizer": _json(
        "tokenizer_config.json",
        {"auto_map": {"AutoTokenizer": ["tokenization_clip.Tokenizer", None]}},
    ),
    "auto_map_of_a_tokenizer_as_a_list": _json(
        "tokenizer_config.json",
        {"tokenizer_class": "X", "auto_map": ["tokenization_x.Tokenizer", None]},
    ),
    "auto_map_further_in": _json(
        "config.json",
        {"model_type": "x", "text_config": {"auto_map": {"AutoModel": "modeling_x.Model"}}},
    ),
    "auto_map_in_a_list": _json(
        "config.json", {"model_type": "x", "parts": [1, [{"auto_map": {"AutoModel": "m.M"}}]]}
    ),
    "custom_pipelines": _json(
        "config.json", {"custom_pipelines": {"task": {"pt": ["AutoModel"], "impl": "x.Pipe"}}}
    ),
    "component_shadowed_by_a_file": _shadowed,
    "pipeline_beside_its_index": _own_pipeline,
    "config_of_megabytes": _padded("config.json"),
    "target_of_hydra_further_in": _json(
        "config.json", {"a": [{"_target_": "builtins.print", "_args_": ["x"]}]}
    ),
    "target_through_a_known_module": file_of("a.yaml", (_MODEL % "ldm.util.os.getcwd").encode()),
    "tag_of_yaml": file_of("a.yaml", b"x: !!python/object/apply:os.getcwd []\n"),
    "weights_outside_of_the_folder": _json(
        "model.safetensors.index.json", {"metadata": {}, "weight_map": {"a": "../../x.bin"}}
    ),
    "pipeline_class_of_a_file": _json(
        "model_index.json", {"_class_name": ["my_pipeline", "Pipeline"], "vae": [None, None]}
    ),
    "component_of_a_foreign_library": _json(
        "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["a_module_nobody_knows", "AutoencoderKL"],
        },
    ),
}

CONFIGS = (
    *(
        _case(f"init_{init}", _peft(init_lora_weights=init), "base_mutating_init", _HIGH)
        for init in _INITS
    ),
    _case(
        "init_loftq_config",
        _peft(init_lora_weights="loftq", loftq_config={"loftq_bits": 4}),
        "base_mutating_init",
        _HIGH,
    ),
    _case("config_of_two_names", _shared_config, "base_mutating_init", _HIGH),
    _case("weights_of_two_names", _linked_weights, "base_mutating_init", _HIGH),
    *(_case(name, _peft(**changes), "regex_pattern", _HIGH) for name, changes in _PATTERNS.items()),
    _case("catastrophic_pattern_in_the_header", _header_config, "regex_pattern", _HIGH),
    # One repetition ends; what it does is set the scale of layers that nobody named.
    _case("loose_alpha_pattern", _peft(alpha_pattern={".*": 4000}), "regex_pattern", _MEDIUM),
    *(_case(name, build, "import_mapping", _HIGH) for name, build in _MAPPINGS.items()),
    *(_case(name, build, "import_mapping", _CRITICAL) for name, build in _TARGETS.items()),
    _case(
        "target_nobody_knows",
        file_of("a.yaml", (_MODEL % "a_module_nobody_knows.Model").encode()),
        "import_mapping",
        _MEDIUM,
    ),
    _case("json_of_megabytes", _padded("table.json"), "import_mapping", _MEDIUM),
    _case(
        "modules_to_save_in_the_config",
        _peft(modules_to_save=["conv_in", "conv_out"]),
        "modules_to_save",
        _MEDIUM,
    ),
    Case(
        name="modules_to_save_with_weights",
        build=_saved_modules,
        expects={"modules_to_save": _MEDIUM, "full_replace": _HIGH},
    ),
)
"""Settings of PEFT, transformers and diffusers that reach beyond an update."""
