"""Tensors that loaders leave out."""

import numpy as np
import pytest

from loricate.integrity.finding import Severity
from loricate.integrity.rules.unreachable_keys import UnreachableKeys
from loricate.testing.corpora._adapters import adapter_for, kohya_tensors, spelled
from loricate.testing.corpora._layers import embedded

KOHYA = (".lora_down.weight", ".lora_up.weight")
PLAIN = (".lora_A.weight", ".lora_B.weight")
MODULE = "lora_unet_mid_block_attentions_0_proj_in"
STRAYS = {
    "unknown": {"payload.blob": np.ones(3)},
    "near miss": {f"{MODULE}.lor\u0430_down.weight": np.ones((4, 4))},
    "no names of a VAE": {"lora_vae_encoder_conv_in.lora_down.weight": np.ones((4, 27))},
    "another component": {"controlnet.conv_in.lora_A.weight": np.ones((4, 4))},
}


@pytest.mark.parametrize("case", STRAYS)
def test_what_no_loader_takes_fires(judged, pair, case):
    found = judged(UnreachableKeys(), pair(MODULE, ends=KOHYA) | STRAYS[case])
    (nobody,) = (each for each in found if "no loader takes" in each.message)
    assert nobody.severity is Severity.MEDIUM
    assert nobody.where == next(iter(STRAYS[case]))


def test_half_a_pair_fires(judged, pair):
    half = {
        f"{MODULE}_other.lora_down.weight": np.ones((4, 4)),
        f"{MODULE}_third.alpha": np.ones(()),
    }
    (found,) = judged(UnreachableKeys(), pair(MODULE, ends=KOHYA) | half)
    assert found.severity is Severity.MEDIUM
    assert found.evidence == {"n_tensors": 2}


def test_magnitudes_that_pipelines_drop_fire(judged, pair):
    found = judged(
        UnreachableKeys(), pair(MODULE, ends=KOHYA) | {f"{MODULE}.dora_scale": np.ones(4)}
    )
    assert [each.severity for each in found] == [Severity.MEDIUM]
    assert "pipelines" in found[0].message


def test_who_takes_a_part_is_named(judged, pair):
    tensors = spelled(adapter_for(embedded("unet", r"^mid_block\.(attentions|resnets)")), *PLAIN)
    (found,) = judged(UnreachableKeys(), tensors)
    assert found.severity is Severity.LOW
    assert found.message.startswith("ComfyUI")
    assert found.evidence == {"n_tensors": sum("attn" in key for key in tensors)}
    with_vae = pair("unet.conv_in") | pair("vae.encoder.conv_in")
    dropped = {each.message.split(" leaves")[0] for each in judged(UnreachableKeys(), with_vae)}
    assert dropped == {"a pipeline of diffusers", "ComfyUI"}


def test_every_plain_form_has_a_loader(judged, pair):
    adapter = adapter_for(embedded("unet", r"^mid_block\.resnets"))
    for tensors in (
        kohya_tensors(adapter),
        spelled(adapter, *PLAIN),
        spelled(adapter, *PLAIN, lambda target: f"base_model.model.{target.module}"),
        spelled(adapter, *PLAIN, lambda target: target.module),
        pair("lycoris_mid_block", ends=KOHYA),
        pair("text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1", ends=KOHYA),
        {"conv_in.weight": np.ones((3, 3))},
    ):
        assert not judged(UnreachableKeys(), tensors)
