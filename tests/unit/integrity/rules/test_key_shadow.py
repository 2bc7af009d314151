"""One module under two names."""

import pytest

from loricate.integrity.finding import Severity
from loricate.integrity.rules.key_shadow import KeyShadow

KOHYA = (".lora_down.weight", ".lora_up.weight")
PLAIN = (".lora_A.weight", ".lora_B.weight")
TEXT = "encoder.layers.0.self_attn.q_proj"
UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
SGM = "input_blocks_1_1_transformer_blocks_0_attn1_to_q"

SHADOWS = {
    "kohya and diffusers": (
        (f"lora_unet_{UNET.replace('.', '_')}", KOHYA),
        (f"unet.{UNET}", PLAIN),
    ),
    "two blocks of kohya": (
        (f"lora_unet_{UNET.replace('.', '_')}", KOHYA),
        (f"lora_unet_{SGM}", KOHYA),
    ),
    "two prefixes": (
        ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", KOHYA),
        ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", KOHYA),
    ),
    "with and without text_model": (
        (f"text_encoder.text_model.{TEXT}", PLAIN),
        (f"text_encoder.{TEXT}", PLAIN),
    ),
    "two generations": (
        (f"unet.{UNET}", PLAIN),
        (f"unet.{UNET}", (".lora.down.weight", ".lora.up.weight")),
    ),
    "processors": (
        (f"unet.{UNET}", PLAIN),
        (
            f"unet.{UNET.replace('to_q', 'processor.to_q')}",
            ("_lora.down.weight", "_lora.up.weight"),
        ),
    ),
    "PEFT and diffusers": ((f"base_model.model.{UNET}", PLAIN), (f"unet.{UNET}", PLAIN)),
    "ComfyUI and kohya": (
        ("diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q", KOHYA),
        (f"lora_unet_{SGM}", KOHYA),
    ),
    "an unknown model": (("lora_unet_my_layer", KOHYA), ("unet.my.layer", PLAIN)),
}


@pytest.mark.parametrize("case", SHADOWS)
def test_two_names_of_one_module_fire(judged, pair, case):
    (one, ends), (other, others) = SHADOWS[case]
    (found,) = judged(KeyShadow(), pair(one, ends=ends) | pair(other, ends=others))
    assert found.severity is Severity.HIGH
    assert found.evidence["n_pairs"] == 2
    assert found.where in {name + end for name, pairs in SHADOWS[case] for end in pairs}


def test_other_modules_and_other_components_are_clean(judged, pair):
    tensors = {
        **pair(f"unet.{UNET}"),
        **pair(f"unet.{UNET.replace('to_q', 'to_k')}"),
        **pair(f"text_encoder.text_model.{TEXT}"),
        **pair(f"text_encoder_2.text_model.{TEXT}"),
        **pair("lora_te2_text_model_encoder_layers_1_self_attn_q_proj", ends=KOHYA),
        **pair("lora_te1_text_model_encoder_layers_1_self_attn_q_proj", ends=KOHYA),
    }
    assert not judged(KeyShadow(), tensors)
