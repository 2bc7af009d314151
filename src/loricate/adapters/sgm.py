"""Module names of Stable Diffusion, in diffusers and in single files.

Single files number the blocks of a denoiser through, where diffusers counts by resolution; both
follow from the depths of the transformers, so that no table of names is kept anywhere.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

__all__ = ["COMPONENTS", "FAMILIES", "Family", "modules", "to_diffusers", "to_sgm"]

Family: TypeAlias = Literal["sd1", "sd2", "sdxl", "refiner"]
"""Stable Diffusion 1.x, 2.x, XL, and the refiner of XL."""

FAMILIES: tuple[Family, ...] = get_args(Family)
COMPONENTS = ("unet", "text_encoder", "text_encoder_2", "vae")

_Pair: TypeAlias = tuple[str, str]

# Transformer blocks by level, from the finest; 0 where a level has no attention.
_DEPTHS: Mapping[Family, tuple[int, ...]] = {
    "sd1": (1, 1, 1, 0),
    "sd2": (1, 1, 1, 0),
    "sdxl": (0, 2, 10),
    "refiner": (0, 4, 4, 0),
}
_MIDDLE_DEPTH: Mapping[Family, int] = {"sd1": 1, "sd2": 1, "sdxl": 10, "refiner": 4}

# Number of layers, and whether single files hold the tower in the naming of open_clip.
_TEXT_TOWERS: Mapping[tuple[Family, str], tuple[int, bool]] = {
    ("sd1", "text_encoder"): (12, False),
    ("sd2", "text_encoder"): (24, True),
    ("sdxl", "text_encoder"): (12, False),
    ("sdxl", "text_encoder_2"): (32, True),
    ("refiner", "text_encoder_2"): (32, True),
}

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_VAE_LEVELS = 4

# Modules of a text layer; open_clip fuses q, k and v into one tensor, which Slot takes apart.
_TEXT_LAYER = {
    "layer_norm1": "ln_1",
    "self_attn.q_proj": "attn.q_proj",
    "self_attn.k_proj": "attn.k_proj",
    "self_attn.v_proj": "attn.v_proj",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


@cache
def modules(component: str, family: Family) -> Mapping[str, str]:
    """Name in a single file of each module of a component, by its name in diffusers.

    Names are without the prefix of the component. A few of them, shortcuts above all, exist in
    some blocks only.

    Args:
        component: One of ``COMPONENTS``; of any other there are no modules.
        family: One of ``FAMILIES``.
    """
    if component == "unet":
        return MappingProxyType(dict(_unet(family)))
    if component == "vae":
        return MappingProxyType(dict(_vae()))
    n_layers, is_open_clip = _TEXT_TOWERS.get((family, component), (0, False))
    pairs = dict(_text(n_layers)) if n_layers else {}
    return MappingProxyType(pairs if is_open_clip else {name: name for name in pairs})


def to_diffusers(component: str, name: str) -> str | None:
    """Name in diffusers of a module of a single file, or ``None`` if no family has it.

    Args:
        component: One of ``COMPONENTS``.
        name: Name in the file, without the prefix of the component.
    """
    return _by_sgm(component).get(name)


def to_sgm(component: str, name: str, *, family: Family) -> str | None:
    """Name in a single file of a module of diffusers, or ``None`` if the family lacks it.

    Args:
        component: One of ``COMPONENTS``.
        name: Name in diffusers, inside the component.
        family: One of ``FAMILIES``.
    """
    return modules(component, family).get(name)


@cache
def _by_sgm(component: str) -> Mapping[str, str]:
    tables = (modules(component, family) for family in FAMILIES)
    return {sgm: name for table in tables for name, sgm in table.items()}


def _unet(family: Family) -> Iterator[_Pair]:
    yield from (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))
    for name, sgm in (("time_embedding", "time_embed"), ("add_embedding", "label_emb.0")):
        yield from ((f"{name}.linear_1", f"{sgm}.0"), (f"{name}.linear_2", f"{sgm}.2"))
    depths = _DEPTHS[family]
    for level, depth in enumerate(depths):
        for layer in range(2):
            yield from _unet_layer("down", level, layer, f"input_blocks.{3 * level + layer + 1}")
            attention = f"down_blocks.{level}.attentions.{layer}"
            yield from _transformer(attention, f"input_blocks.{3 * level + layer + 1}.1", depth)
        if level + 1 < len(depths):
            sampler = f"down_blocks.{level}.downsamplers.0.conv"
            yield sampler, f"input_blocks.{3 * level + 3}.0.op"
    for index in range(2):
        yield from _renamed(f"mid_block.resnets.{index}", f"middle_block.{2 * index}", _RESNET)
    yield from _transformer("mid_block.attentions.0", "middle_block.1", _MIDDLE_DEPTH[family])
    for level, depth in enumerate(reversed(depths)):
        for layer in range(3):
            yield from _unet_layer("up", level, layer, f"output_blocks.{3 * level + layer}")
            attention = f"up_blocks.{level}.attentions.{layer}"
            yield from _transformer(attention, f"output_blocks.{3 * level + layer}.1", depth)
        if level + 1 < len(depths):
            place = 2 if depth else 1
            sampler = f"up_blocks.{level}.upsamplers.0.conv"
            yield sampler, f"output_blocks.{3 * level + 2}.{place}.conv"


def _unet_layer(side: str, level: int, layer: int, sgm: str) -> Iterator[_Pair]:
    return _renamed(f"{side}_blocks.{level}.resnets.{layer}", f"{sgm}.0", _RESNET)


def _transformer(name: str, sgm: str, depth: int) -> Iterator[_Pair]:
    if depth == 0:
        return
    leaves = ["norm", "proj_in", "proj_out"]
    for block in (f"transformer_blocks.{index}" for index in range(depth)):
        parts = ("to_q", "to_k", "to_v", "to_out.0")
        leaves += [f"{block}.{attn}.{part}" for attn in ("attn1", "attn2") for part in parts]
        leaves += [f"{block}.{leaf}" for leaf in ("ff.net.0.proj", "ff.net.2")]
        leaves += [f"{block}.norm{index}" for index in (1, 2, 3)]
    yield from _renamed(name, sgm, {leaf: leaf for leaf in leaves})


def _vae() -> Iterator[_Pair]:
    yield from ((name, name) for name in ("quant_conv", "post_quant_conv"))
    resnet = {leaf: leaf for leaf in ("norm1", "conv1", "norm2", "conv2")}
    resnet["conv_shortcut"] = "nin_shortcut"
    top = _VAE_LEVELS - 1
    for coder, side, n_layers in (("encoder", "down", 2), ("decoder", "up", 3)):
        ends = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
        yield from _renamed(coder, coder, ends)
        for index in range(2):
            name, sgm = f"mid_block.resnets.{index}", f"mid.block_{index + 1}"
            yield from _renamed(f"{coder}.{name}", f"{coder}.{sgm}", resnet)
        attention = f"{coder}.mid_block.attentions.0"
        yield from _renamed(attention, f"{coder}.mid.attn_1", _VAE_ATTENTION)
        for level in range(_VAE_LEVELS):
            # The decoder's levels count from the finest in a single file, else from the coarsest.
            sgm = f"{coder}.{side}.{level if side == 'down' else top - level}"
            name = f"{coder}.{side}_blocks.{level}"
            for layer in range(n_layers):
                yield from _renamed(f"{name}.resnets.{layer}", f"{sgm}.block.{layer}", resnet)
            if level < top:
                yield f"{name}.{side}samplers.0.conv", f"{sgm}.{side}sample.conv"


def _text(n_layers: int) -> Iterator[_Pair]:
    yield "text_model.embeddings.token_embedding", "token_embedding"
    yield "text_model.embeddings.position_embedding", "positional_embedding"
    yield "text_model.final_layer_norm", "ln_final"
    yield "text_projection", "text_projection"
    for index in range(n_layers):
        name, sgm = f"text_model.encoder.layers.{index}", f"transformer.resblocks.{index}"
        yield from _renamed(name, sgm, _TEXT_LAYER)


def _renamed(name: str, sgm: str, leaves: Mapping[str, str]) -> Iterator[_Pair]:
    return ((f"{name}.{ours}", f"{sgm}.{theirs}") for ours, theirs in leaves.items())
