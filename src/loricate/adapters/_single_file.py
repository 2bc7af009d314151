"""Module names of single-file checkpoints, and the names of the same modules in diffusers.

Checkpoints of Stable Diffusion number their blocks through, where diffusers counts by resolution;
text towers of open_clip have names of their own.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

__all__ = ["diffusers_names", "single_file_vae_names"]

_Rule: TypeAlias = tuple[str, str | Callable[[re.Match[str]], str]]

_RESNET: Sequence[_Rule] = (
    (r"\.in_layers\.0$", ".norm1"),
    (r"\.in_layers\.2$", ".conv1"),
    (r"\.emb_layers\.1$", ".time_emb_proj"),
    (r"\.out_layers\.0$", ".norm2"),
    (r"\.out_layers\.3$", ".conv2"),
    (r"\.skip_connection$", ".conv_shortcut"),
)

_UNET: Sequence[_Rule] = (
    (r"^time_embed\.(\d)$", lambda m: f"time_embedding.linear_{int(m[1]) // 2 + 1}"),
    (r"^label_emb\.0\.(\d)$", lambda m: f"add_embedding.linear_{int(m[1]) // 2 + 1}"),
    (r"^input_blocks\.0\.0$", "conv_in"),
    (r"^out\.0$", "conv_norm_out"),
    (r"^out\.2$", "conv_out"),
    (r"^input_blocks\.(\d+)\.0\.op$", lambda m: _sampler("down", int(m[1]) - 1)),
    (r"^output_blocks\.(\d+)\.\d\.conv$", lambda m: _sampler("up", int(m[1]))),
    (r"^input_blocks\.(\d+)\.([01])\b", lambda m: _layer("down", int(m[1]) - 1, m[2])),
    (r"^output_blocks\.(\d+)\.([01])\b", lambda m: _layer("up", int(m[1]), m[2])),
    (r"^middle_block\.1\b", "mid_block.attentions.0"),
    (r"^middle_block\.([02])\b", lambda m: f"mid_block.resnets.{int(m[1]) // 2}"),
    *_RESNET,
)

_OPEN_CLIP: Sequence[_Rule] = (
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"\.attn\b", ".self_attn"),
    (r"\.c_fc$", ".fc1"),
    (r"\.c_proj$", ".fc2"),
)

_VAE: Sequence[_Rule] = (
    (r"\.mid\.block_(\d)\b", lambda m: f".mid_block.resnets.{int(m[1]) - 1}"),
    (r"\.mid\.attn_1\b", ".mid_block.attentions.0"),
    (r"\.attentions\.0\.norm$", ".attentions.0.group_norm"),
    (r"\.attentions\.0\.([qkv])$", r".attentions.0.to_\1"),
    (r"\.attentions\.0\.proj_out$", ".attentions.0.to_out.0"),
    (r"\.nin_shortcut$", ".conv_shortcut"),
    (r"\.norm_out$", ".conv_norm_out"),
    (r"\.down\.(\d)\.block\b", r".down_blocks.\1.resnets"),
    (r"\.down\.(\d)\.downsample\b", r".down_blocks.\1.downsamplers.0"),
)


def diffusers_names(component: str, modules: Iterable[str]) -> dict[str, str]:
    """Name in diffusers of each module of a component of a checkpoint.

    Args:
        component: Part of the pipeline, such as ``unet``.
        modules: All modules of it, by their names in the file, without the prefix.

    Returns:
        The new names by the old ones; names that are not those of a checkpoint stay as they are.
    """
    modules = list(modules)
    rules = {"unet": _UNET, "vae": (*_VAE, *_ups(modules))}.get(component, ())
    if component.startswith("text_encoder"):
        rules = _OPEN_CLIP
    return {module: _renamed(module, rules) for module in modules}


def single_file_vae_names(modules: Iterable[str]) -> dict[str, str]:
    """Name in a checkpoint of each module of an autoencoder of diffusers.

    Args:
        modules: All modules of it.

    Returns:
        The new names by the old ones.
    """
    modules = list(modules)
    top = _top_level(modules)
    rules: Sequence[_Rule] = (
        (r"\.mid_block\.resnets\.(\d)\b", lambda m: f".mid.block_{int(m[1]) + 1}"),
        (r"\.mid_block\.attentions\.0\b", ".mid.attn_1"),
        (r"\.attn_1\.group_norm$", ".attn_1.norm"),
        (r"\.attn_1\.to_([qkv])$", r".attn_1.\1"),
        (r"\.attn_1\.(query|key|value)$", lambda m: f".attn_1.{m[1][0]}"),
        (r"\.attn_1\.(to_out\.0|proj_attn)$", ".attn_1.proj_out"),
        (r"\.conv_shortcut$", ".nin_shortcut"),
        (r"\.conv_norm_out$", ".norm_out"),
        (r"\.down_blocks\.(\d)\.resnets\b", r".down.\1.block"),
        (r"\.down_blocks\.(\d)\.downsamplers\.0\b", r".down.\1.downsample"),
        (r"\.up_blocks\.(\d)\.resnets\b", lambda m: f".up.{top - int(m[1])}.block"),
        (r"\.up_blocks\.(\d)\.upsamplers\.0\b", lambda m: f".up.{top - int(m[1])}.upsample"),
    )
    return {module: _renamed(module, rules) for module in modules}


def _ups(modules: Sequence[str]) -> Sequence[_Rule]:
    # A checkpoint counts the decoder's levels from the finest, diffusers from the coarsest.
    top = _top_level(modules)
    return (
        (r"\.up\.(\d)\.block\b", lambda m: f".up_blocks.{top - int(m[1])}.resnets"),
        (r"\.up\.(\d)\.upsample\b", lambda m: f".up_blocks.{top - int(m[1])}.upsamplers.0"),
    )


def _top_level(modules: Iterable[str]) -> int:
    levels = (re.match(r"decoder\.up(?:_blocks)?\.(\d)\.", module) for module in modules)
    return max((int(level[1]) for level in levels if level), default=0)


def _sampler(side: str, index: int) -> str:
    return f"{side}_blocks.{index // 3}.{side}samplers.0.conv"


def _layer(side: str, index: int, place: str) -> str:
    kind = "attentions" if place == "1" else "resnets"
    return f"{side}_blocks.{index // 3}.{kind}.{index % 3}"


def _renamed(module: str, rules: Iterable[_Rule]) -> str:
    for pattern, replacement in rules:
        module = re.sub(pattern, replacement, module)
    return module
