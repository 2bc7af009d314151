"""Names of single files follow from the architecture: landmarks known by heart, and laws."""

import pytest

from loricate.adapters import sgm
from loricate.adapters.formats._kohya_names import underscored
from loricate.adapters.names import canonical, without_tower

TABLES = [(c, f) for f in sgm.FAMILIES for c in sgm.COMPONENTS if sgm.modules(c, f)]


@pytest.mark.parametrize(("component", "family"), TABLES)
def test_every_name_has_one_counterpart(component, family):
    table = sgm.modules(component, family)
    assert len(set(table.values())) == len(table)
    for name, in_file in table.items():
        assert sgm.to_diffusers(component, in_file) == name
        assert sgm.to_sgm(component, name, family=family) == in_file


@pytest.mark.parametrize(
    ("component", "family", "name", "in_file"),
    [
        ("unet", "sd1", "down_blocks.0.attentions.0.proj_in", "input_blocks.1.1.proj_in"),
        ("unet", "sd1", "down_blocks.2.downsamplers.0.conv", "input_blocks.9.0.op"),
        ("unet", "sd1", "mid_block.resnets.1.conv2", "middle_block.2.out_layers.3"),
        ("unet", "sd1", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
        ("unet", "sdxl", "up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        (
            "unet",
            "sdxl",
            "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_out.0",
            "input_blocks.8.1.transformer_blocks.9.attn2.to_out.0",
        ),
        ("unet", "sdxl", "add_embedding.linear_2", "label_emb.0.2"),
        ("vae", "sd1", "decoder.up_blocks.0.resnets.2.norm1", "decoder.up.3.block.2.norm1"),
        ("vae", "sd1", "encoder.mid_block.attentions.0.to_q", "encoder.mid.attn_1.q"),
        (
            "text_encoder_2",
            "sdxl",
            "text_model.encoder.layers.31.mlp.fc2",
            "transformer.resblocks.31.mlp.c_proj",
        ),
        ("text_encoder", "sd1", *["text_model.encoder.layers.11.self_attn.q_proj"] * 2),
    ],
)
def test_landmarks(component, family, name, in_file):
    assert sgm.to_sgm(component, name, family=family) == in_file
    assert sgm.to_diffusers(component, in_file) == name


def test_what_a_family_lacks_has_no_name():
    name = "down_blocks.0.attentions.0.proj_in"
    assert sgm.to_sgm("unet", name, family="sdxl") is None
    assert sgm.to_sgm("transformer", name, family="sd1") is None
    assert sgm.to_diffusers("unet", "input_blocks.99.0.op") is None


@pytest.mark.parametrize("component", sgm.COMPONENTS)
def test_underscores_confuse_no_two_modules(component):
    meant: dict[str, set[str]] = {}
    for family in sgm.FAMILIES:
        for name, in_file in sgm.modules(component, family).items():
            for alias in (name, in_file, without_tower(name) or name):
                meant.setdefault(underscored(alias), set()).add(name)
    assert all(len(names) == 1 for names in meant.values())


@pytest.mark.parametrize(
    ("component", "module", "expected"),
    [
        ("text_encoder", "encoder.layers.3.mlp.fc1", "text_model.encoder.layers.3.mlp.fc1"),
        ("text_encoder_2", "text_model.encoder.layers.3.mlp.fc1", None),
        ("text_encoder_2", "text_projection", None),
        ("text_encoder_3", "encoder.block.0.layer.0.SelfAttention.q", None),
        (
            "text_encoder",
            "text_model.encoder.layers.0.self_attn.to_out.0",
            "text_model.encoder.layers.0.self_attn.out_proj",
        ),
        ("vae", "encoder.mid_block.attentions.0.query", "encoder.mid_block.attentions.0.to_q"),
        (
            "vae",
            "decoder.mid_block.attentions.0.proj_attn",
            "decoder.mid_block.attentions.0.to_out.0",
        ),
        ("unet", "mid_block.attentions.0.query", None),
        ("model", "encoder.layers.3.mlp.fc1", None),
    ],
)
def test_one_name_for_every_spelling(component, module, expected):
    assert canonical(component, module) == (expected or module)
    assert canonical(component, expected or module) == (expected or module)
