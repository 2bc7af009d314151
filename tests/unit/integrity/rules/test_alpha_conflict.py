"""Places that state different scales."""

import json

import numpy as np
import pytest

from loricate.adapters.keys import HEADER_KEY
from loricate.adapters.tensors import save_tensors
from loricate.integrity.finding import Severity
from loricate.integrity.rules.alpha_conflict import AlphaConflict
from loricate.integrity.subject import Subject

UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = f"lora_unet_{UNET.replace('.', '_')}"
ENDS = (".lora_down.weight", ".lora_up.weight")


def header(alpha, prefix="unet."):
    return {HEADER_KEY: json.dumps({f"{prefix}r": 4, f"{prefix}lora_alpha": alpha})}


@pytest.mark.parametrize("alpha", [4000.0, -4.0, 4.1])
def test_a_tensor_against_the_header_fires(judged, pair, alpha):
    tensors = pair(f"unet.{UNET}") | {f"unet.{UNET}.alpha": np.asarray(alpha)}
    (found,) = judged(AlphaConflict(), tensors, header(4))
    assert found.severity is Severity.HIGH
    assert found.where == f"unet.{UNET}"
    assert found.evidence == {"header": 1.0, "tensor": alpha / 4, "n_modules": 1}


def test_a_config_against_the_header_fires(tmp_path, pair):
    path = tmp_path / "adapter_model.safetensors"
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "init_lora_weights": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_tensors(path, pair("base_model.model.fc1"), header(4000, "base_model.model."))
    (found,) = AlphaConflict().check(Subject(path))
    assert found.evidence == {"config": 2.0, "header": 1000.0, "n_modules": 1}
    save_tensors(path, pair("base_model.model.fc1"), header(8, "base_model.model."))
    assert not list(AlphaConflict().check(Subject(path)))


def test_the_header_of_a_trainer_is_a_low_finding(judged, pair):
    tensors = pair(KOHYA, ends=ENDS) | {f"{KOHYA}.alpha": np.asarray(2.0)}
    (found,) = judged(AlphaConflict(), tensors, {"ss_network_alpha": "64", "ss_network_dim": "4"})
    assert found.severity is Severity.LOW
    assert "'64'" in found.message


def test_places_that_agree_are_clean(judged, pair):
    half = np.asarray(2.67, np.float16)
    tensors = pair(f"unet.{UNET}") | {f"unet.{UNET}.alpha": half}
    assert not judged(AlphaConflict(), tensors, header(2.67))
    unset = pair(f"unet.{UNET}") | {f"unet.{UNET}.alpha": np.asarray(0.0)}
    assert not judged(AlphaConflict(), unset, header(8))
    kohya = pair(KOHYA, ends=ENDS) | {f"{KOHYA}.alpha": np.asarray(2.0)}
    assert not judged(AlphaConflict(), kohya, {"ss_network_alpha": "2.0", "ss_network_dim": "4"})


@pytest.mark.parametrize("shape", [(320, 1), (2,), (0,)])
def test_an_alpha_that_is_no_single_number_fires(judged, pair, shape):
    tensors = pair(KOHYA, ends=ENDS) | {f"{KOHYA}.alpha": np.full(shape, 4e6, np.float32)}
    (found,) = judged(AlphaConflict(), tensors)
    assert found.severity is Severity.HIGH
    assert found.where == KOHYA
    # Activations of models have one too.
    assert not judged(AlphaConflict(), {"decoder.snake.alpha": np.ones((1, 8, 1), np.float32)})


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_number_may_have_any_shape(judged, pair, shape):
    tensors = pair(KOHYA, ends=ENDS) | {f"{KOHYA}.alpha": np.full(shape, 2.0, np.float32)}
    assert not judged(AlphaConflict(), tensors)
