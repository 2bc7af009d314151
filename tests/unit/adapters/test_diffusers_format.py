"""Every generation of names, in any order; the scale of the header; lone models."""

import itertools
import json

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.adapters.formats.diffusers import WEIGHTS, Diffusers
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import ConfigError, UnsupportedError

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
TEXT = "text_model.encoder.layers.0"

# Stem and side of the names of one module in every generation that wrote it.
GENERATIONS = {
    Target("unet", f"{BLOCK}.attn1.to_q"): [
        f"unet.{BLOCK}.attn1.to_q.lora_{{AB}}.weight",
        f"unet.{BLOCK}.attn1.to_q.lora.{{du}}.weight",
        f"unet.{BLOCK}.attn1.processor.to_q_lora.{{du}}.weight",
    ],
    Target("unet", f"{BLOCK}.attn1.to_out.0"): [
        f"unet.{BLOCK}.attn1.to_out.0.lora_{{AB}}.weight",
        f"unet.{BLOCK}.attn1.to_out.0.lora.{{du}}.weight",
        f"unet.{BLOCK}.attn1.processor.to_out_lora.{{du}}.weight",
    ],
    Target("text_encoder", f"{TEXT}.self_attn.q_proj"): [
        f"text_encoder.{TEXT}.self_attn.q_proj.lora_{{AB}}.weight",
        "text_encoder.encoder.layers.0.self_attn.q_proj.lora_{AB}.weight",
        f"text_encoder.{TEXT}.self_attn.q_proj.lora_linear_layer.{{du}}.weight",
        f"text_encoder.{TEXT}.self_attn.to_q_lora.{{du}}.weight",
    ],
    Target("text_encoder", f"{TEXT}.mlp.fc1"): [
        f"text_encoder.{TEXT}.mlp.fc1.lora_{{AB}}.weight",
        f"text_encoder.{TEXT}.mlp.fc1.lora_linear_layer.{{du}}.weight",
    ],
    Target("transformer", "transformer_blocks.0.attn.to_q"): [
        "transformer.transformer_blocks.0.attn.to_q.lora_{AB}.weight",
        "transformer.transformer_blocks.0.attn.to_q.lora_{AB}.default.weight",
    ],
}


def keys(template):
    return [template.format(AB=AB, du=du) for AB, du in (("A", "down"), ("B", "up"))]


def factors(rng, rank=2, d_out=3, d_in=5):
    return rng.standard_normal((rank, d_in)), rng.standard_normal((d_out, rank))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("generation", range(4))
@pytest.mark.parametrize("is_reversed", [False, True])
def test_names_of_any_generation_in_any_order(path, rng, generation, is_reversed):
    expected, tensors = {}, {}
    for offset, (target, templates) in enumerate(GENERATIONS.items()):
        a, b = factors(rng)
        # Generations are mixed in one file, as training scripts do.
        name_a, name_b = keys(templates[(generation + offset) % len(templates)])
        tensors |= {name_a: a, name_b: b}
        expected[target] = b @ a
    order = sorted(tensors, reverse=is_reversed)
    save_tensors(path, {key: tensors[key] for key in order})
    found = open_adapter(path)
    assert (found.form, found.scale_source) == ("diffusers", "absent")
    assert found.adapter.keys() == expected.keys()
    for target, dense in expected.items():
        np.testing.assert_allclose(found.adapter[target].dense(), dense, rtol=1e-14)


def header(**entries):
    return {"lora_adapter_metadata": json.dumps(entries)}


def write(path, rng, name=f"unet.{BLOCK}.attn1.to_q", metadata=None, **more):
    a, b = factors(rng)
    tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    save_tensors(path, tensors | more, metadata)
    return b @ a


@pytest.mark.parametrize(("rooted", "scale"), [(False, 3.0), (True, 6 / 2**0.5)])
def test_the_header_states_the_scale(path, rng, rooted, scale):
    stated = {"unet.r": 2, "unet.lora_alpha": 6, "unet.use_rslora": rooted}
    dense = write(path, rng, metadata=header(**stated))
    found = open_adapter(path)
    assert found.scale_source == "header"
    (update,) = found.adapter.values()
    np.testing.assert_allclose(update.dense(), scale * dense, rtol=1e-14)


def test_patterns_of_a_text_encoder_hit_either_spelling(path, rng):
    stated = {"r": 4, "lora_alpha": 4}
    patterns = {"rank_pattern": {"^encoder.layers.0.mlp.fc1": 2}}
    patterns |= {"alpha_pattern": {r"^text_model\.encoder\.layers\.0\.mlp\.fc1": 1}}
    table = {f"text_encoder.{key}": value for key, value in (stated | patterns).items()}
    write(path, rng, f"text_encoder.{TEXT}.mlp.fc1", header(**table))
    (update,) = open_adapter(path).adapter.values()
    assert update.factors.scale == 0.5


def test_two_scales_are_a_conflict_and_two_equal_ones_are_none(path, rng):
    alpha = {f"unet.{BLOCK}.attn1.to_q.alpha": np.float32(6)}
    stated = {"unet.r": 2, "unet.lora_alpha": 6}
    write(path, rng, metadata=header(**stated), **alpha)
    assert open_adapter(path).scale_source == "tensor"
    write(path, rng, metadata=header(**stated | {"unet.lora_alpha": 2}), **alpha)
    with pytest.raises(ConfigError, match="ALPHA_CONFLICT") as caught:
        open_adapter(path)
    assert caught.value.problems[0].key == f"{BLOCK}.attn1.to_q"


def test_half_of_the_modules_may_state_a_scale(path, rng):
    a, b = factors(rng)
    more = {"unet.conv_in.lora_A.weight": a, "unet.conv_in.lora_B.weight": b}
    write(path, rng, **more, **{"unet.conv_in.alpha": np.float32(1)})
    found = open_adapter(path)
    assert found.scale_source == "tensor"
    assert found.notes == ("no scale is stated, which means alpha == rank, at 1 of 2 modules",)
    assert sorted(update.factors.scale for update in found.adapter.values()) == [0.5, 1.0]


def test_one_module_under_two_names_is_refused(path, rng):
    a, b = factors(rng)
    short = "text_encoder.encoder.layers.0.mlp.fc1"
    more = {f"{short}.lora_A.weight": a, f"{short}.lora_B.weight": b}
    write(path, rng, f"text_encoder.{TEXT}.mlp.fc1", **more)
    with pytest.raises(ConfigError, match="KEY_SHADOW"):
        open_adapter(path)
    old = f"unet.{BLOCK}.attn1.processor.to_q_lora"
    write(path, rng, **{f"{old}.down.weight": a, f"{old}.up.weight": b})
    with pytest.raises(ConfigError, match="KEY_SHADOW"):
        open_adapter(path)


def adapter(rng, *targets, scale=0.5):
    updates = {}
    for rank, target in enumerate(targets, start=1):
        updates[Target(*target)] = Update.from_factors(*factors(rng, rank), scale)
    return Adapter(updates, {"note": "kept"})


def test_a_lone_model_has_to_be_named(path, rng):
    written = adapter(rng, ("unet", "conv_in"), ("unet", "mid_block.resnets.0.conv1"))
    Diffusers(lone=True).write(written, path)
    assert set(TensorFile(path)) == {
        f"{module}.lora_{side}.weight"
        for module, side in itertools.product(("conv_in", "mid_block.resnets.0.conv1"), "AB")
    }
    found = open_adapter(path)
    assert (found.form, found.scale_source) == ("diffusers-model", "header")
    assert found.adapter.keys() == written.keys()
    with pytest.raises(ConfigError, match="'unet', as in the header"):
        open_adapter(path, component="vae")
    save_tensors(path, dict(TensorFile(path)))
    with pytest.raises(ConfigError, match="which this file does not say"):
        open_adapter(path)
    assert open_adapter(path, component="vae").adapter.components == ("vae",)


def test_written_names_are_canonical_and_never_mixed(path, rng):
    text, unet = ("text_encoder", f"{TEXT}.self_attn.q_proj"), ("unet", f"{BLOCK}.attn1.to_q")
    written = adapter(rng, text, unet, ("vae", "encoder.conv_in"))
    save_adapter(written, path, form="diffusers")
    file = TensorFile(path)
    assert all(key.rpartition(".lora_")[2] in ("A.weight", "B.weight") for key in file)
    assert f"text_encoder.{TEXT}.self_attn.q_proj.lora_A.weight" in file
    stated = json.loads(file.metadata["lora_adapter_metadata"])
    for component in written.components:
        assert stated[f"{component}.r"] == stated[f"{component}.lora_alpha"]
        assert stated[f"{component}.rank_pattern"] == stated[f"{component}.alpha_pattern"]
    assert dict(open_adapter(path).adapter.metadata) == {"note": "kept"}


def test_text_encoders_without_attention_get_names_that_pipelines_tell(path, rng):
    save_adapter(adapter(rng, ("text_encoder", f"{TEXT}.mlp.fc1")), path, form="diffusers")
    assert f"text_encoder.{TEXT}.mlp.fc1.lora_linear_layer.down.weight" in TensorFile(path)


def test_a_folder_gets_a_card_and_keeps_its_own(tmp_path, rng):
    written = adapter(rng, ("unet", "conv_in"))
    folder = tmp_path / "lora"
    save_adapter(written, folder, form="diffusers")
    assert {file.name for file in folder.iterdir()} == {WEIGHTS, "README.md"}
    assert "| unet | 1 | 1 (1) | 8 |" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("mine")
    save_adapter(written, folder, form="diffusers")
    assert (folder / "README.md").read_text() == "mine"
    assert open_adapter(folder).adapter.keys() == written.keys()


def test_what_no_pipeline_has_is_refused(path, rng):
    with pytest.raises(UnsupportedError, match="component 'model'"):
        save_adapter(adapter(rng, ("model", "fc")), path, form="diffusers")
    several = adapter(rng, ("unet", "conv_in"), ("vae", "encoder.conv_in"))
    with pytest.raises(UnsupportedError, match="components"):
        Diffusers(lone=True).write(several, path)
    with pytest.raises(ConfigError, match="diffusers") as caught:
        save_adapter(several, path, form="difusers")
    assert caught.value.problems[0].nearest == "diffusers"
    assert not path.exists()
