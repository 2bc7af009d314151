"""Weights on disk: by component, by file, in the order of the disk."""

import json

import numpy as np
import pytest

from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.adapters.weights import Weights, component_folder, open_file, open_model
from loricate.basics.errors import PrerequisiteError


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
