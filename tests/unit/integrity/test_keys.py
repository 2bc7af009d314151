"""What names of tensors say of where they belong."""

import time

import numpy as np
import pytest

from loricate.adapters.formats._kohya_names import find, resolve
from loricate.adapters.tensors import save_tensors
from loricate.basics import errors
from loricate.integrity._keys import part_of, place_of
from loricate.integrity.scan import scan

KNOWN = "lora_unet_down_blocks_0_attentions_0_proj_in"
FOREIGN = "lora_unet_model_decoder_blocks_{}_mixer_in_proj"


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_"])
def test_a_name_is_found_where_it_is_resolved(prefix, tmp_path) -> None:
    ends = ("down_blocks_0_attentions_0_proj_in", "text_model_encoder_layers_0_mlp_fc1")
    n_found = 0
    for name in (prefix + end for end in ends):
        found = find(name, "unet")
        n_found += found is not None
        if found is None:
            with pytest.raises(errors.ConfigError):
                resolve([name], tmp_path, component="unet", base=None)
        else:
            assert resolve([name], tmp_path, component="unet", base=None) == {name: found}
    assert n_found == 1


def test_a_foreign_name_keeps_its_spelling_and_is_compared_with_nothing(monkeypatch) -> None:
    def too_slow(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(errors.difflib, "SequenceMatcher", too_slow)
    name = FOREIGN.format(0)
    place = place_of(f"{name}.lora_down.weight")
    assert place is not None
    assert place[:3] == ("unet", name.removeprefix("lora_unet_"), name)
    assert find("nobody_knows_this", "unet") is None


def test_many_foreign_names_are_scanned_in_no_time(tmp_path) -> None:
    tensors = {}
    for number in range(200):
        name = FOREIGN.format(number)
        tensors[f"{name}.lora_down.weight"] = np.ones((1, 4), np.float32)
        tensors[f"{name}.lora_up.weight"] = np.ones((3, 1), np.float32)
    save_tensors(tmp_path / "a.safetensors", tensors)
    scan([tmp_path / "nothing.json"])  # registers the rules
    assert find(KNOWN, "unet") is not None  # makes the tables
    begun = time.process_time()
    scan([tmp_path / "a.safetensors"])
    assert time.process_time() - begun < 1


REPEATED = ("_lora", ".lora", "lora.up", ".lora_A", ".lora_A.bias", ".hra_u", ".ia3_l", "x:1")


@pytest.mark.parametrize("part", [*REPEATED, ".lora_magnitude_vector", ".diff.weight"])
def test_a_name_of_any_length_is_judged_in_no_time(part) -> None:
    begun = time.process_time()
    part_of(part * 20_000 + "!")
    assert time.process_time() - begun < 1
