"""Whole weights inside an adapter."""

import json

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.integrity.finding import Severity
from loricate.integrity.rules.full_replace import FullReplace
from loricate.integrity.subject import Subject

MODULE = "lora_unet_mid_block_resnets_0_conv1"


@pytest.mark.parametrize(
    "end", ["set_weight", "diff", "diff_b", "w_norm", "b_norm", "reshape_weight"]
)
def test_each_kind_alone_fires(judged, end):
    (found,) = judged(FullReplace(), {f"{MODULE}.{end}": np.ones((4, 4))})
    assert found.severity is Severity.HIGH
    assert found.where == f"{MODULE}.{end}"
    assert found.evidence == {"kind": end, "n_tensors": 1}


@pytest.mark.parametrize("end", ["modules_to_save.default.weight", "weight", "bias"])
def test_saved_modules_fire(judged, pair, end):
    tensors = pair("base_model.model.fc1") | {f"base_model.model.head.{end}": np.ones(4)}
    (found,) = judged(FullReplace(), tensors)
    assert found.evidence["kind"] == "modules_to_save"


def test_a_folder_of_peft_may_hold_nothing_but_whole_weights(tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    save_tensors(path, {"base_model.model.head.weight": np.ones((4, 4))})
    assert not list(FullReplace().check(Subject(path)))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert list(FullReplace().check(Subject(path)))


def test_plain_adapters_and_whole_models_are_clean(judged, pair):
    plain = pair("unet.mid_block.attentions.0.proj_in") | pair(
        "lora_unet_mid_block_resnets_0_conv1"
    )
    assert not judged(FullReplace(), plain)
    assert not judged(
        FullReplace(), {"conv_in.weight": np.ones((4, 4)), "conv_in.bias": np.ones(4)}
    )
