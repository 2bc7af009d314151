"""Weights on disk: by component, by file, in the order of the disk."""

import json

import numpy as np
import pytest

from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.adapters.weights import (
    Weights,
    component_folder,
    open_file,
    open_model,
    open_weights,
)
from loricate.basics.errors import HostileFileError, PrerequisiteError


def save(path, **tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {name.replace("__", "."): value for name, value in tensors.items()})
    return path


@pytest.mark.parametrize(
    ("prefix", "component"),
    [
        ("first_stage_model.", "vae"),
        ("model.diffusion_model.", "unet"),
        ("cond_stage_model.transformer.", "text_encoder"),
        ("cond_stage_model.model.", "text_encoder"),
        ("conditioner.embedders.0.transformer.", "text_encoder"),
        ("conditioner.embedders.0.model.", "text_encoder_2"),
        ("conditioner.embedders.1.model.", "text_encoder_2"),
        ("model_ema.", "model"),
    ],
)
def test_a_prefix_of_a_checkpoint_says_the_component(tmp_path, prefix, component):
    path = tmp_path / "checkpoint.safetensors"
    save_tensors(path, {f"{prefix}a.weight": np.ones(2)})
    assert set(open_model(path)) == {component}
    assert set(open_file(path)) == {f"{prefix}a.weight"}


def test_the_order_of_the_disk_is_not_that_of_the_header(tmp_path):
    header = {
        "late": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
        "early": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    raw = json.dumps(header).encode()
    path = tmp_path / "file.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\1\2")
    weights = open_file(path)
    assert list(weights) == ["late", "early"]
    assert weights.in_disk_order() == ["early", "late"]


def test_a_linear_weight_is_seen_as_a_convolution(tmp_path):
    file = TensorFile(save(tmp_path / "file.safetensors", q=np.arange(6).reshape(2, 3)))
    weights = Weights({"q": (file, "q")}, "file", {"q": (2, 3, 1, 1)})
    assert weights.shape("q") == weights["q"].shape == (2, 3, 1, 1)
    np.testing.assert_array_equal(weights["q"].reshape(-1), np.arange(6))


def test_a_file_beside_a_pipeline_is_none_of_its_components(tmp_path):
    save(tmp_path / "vae" / "file.safetensors", a=np.ones(1))
    save(tmp_path / "whole.safetensors", a=np.ones(1))
    assert component_folder(tmp_path, "unet") == tmp_path
    (tmp_path / "model_index.json").write_text("{}")
    assert component_folder(tmp_path, "vae") == tmp_path / "vae"
    with pytest.raises(PrerequisiteError) as caught:
        component_folder(tmp_path, "unet")
    assert "'unet'" in caught.value.missing


def index_of(path, *shards):
    """An index, and a shard of one tensor for each name."""
    for number, shard in enumerate(shards):
        save(path.with_name(shard), **{f"x{number}": np.full(1, number)})
    weight_map = {f"x{number}": shard for number, shard in enumerate(shards)}
    path.write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("stem", ["diffusion_pytorch_model", "model", "adapter_model"])
def test_what_no_loader_looks_for_takes_the_place_of_nothing(tmp_path, stem):
    save(tmp_path / f"{stem}.safetensors", loaded=np.ones(1))
    index_of(tmp_path / "z.safetensors.index.json", "good.safetensors")
    assert list(open_weights(tmp_path)) == ["loaded"]


@pytest.mark.parametrize("variant", ["fp16", "non_ema"])
def test_a_variant_is_taken_where_there_is_nothing_else(tmp_path, variant):
    lone, both, sharded = (tmp_path / name for name in ("lone", "both", "sharded"))
    for folder in (lone, both):
        save(folder / f"model.{variant}.safetensors", variant=np.ones(1))
    save(both / "model.safetensors", plain=np.ones(1))
    sharded.mkdir()
    shards = [f"model.{variant}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index_of(sharded / f"model.safetensors.index.{variant}.json", *shards)
    assert [list(open_weights(each)) for each in (lone, both, sharded)] == [
        ["variant"],
        ["plain"],
        ["x0", "x1"],
    ]


def test_a_file_beside_a_pipeline_does_not_stand_for_it(tmp_path):
    save(tmp_path / "vae" / "model.safetensors", inside=np.ones(1))
    save(tmp_path / "vae.safetensors", beside=np.ones(1))
    (tmp_path / "model_index.json").write_text("{}")
    found = open_model(tmp_path)
    assert {part: list(weights) for part, weights in found.items()} == {"vae": ["inside"]}


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    index_of(tmp_path / "model.safetensors.index.json", "a.safetensors", "b.safetensors")
    assert list(open_weights(tmp_path)) == ["x0", "x1"]
    save(tmp_path / "b.safetensors", x0=np.zeros(1), x1=np.ones(1))
    with pytest.raises(HostileFileError, match="two shards"):
        open_weights(tmp_path)
