"""A checkpoint in one file, under the names of single files, small enough for every test."""

from pathlib import Path
from typing import Any

import torch

from loricate.adapters.sgm import modules
from loricate.adapters.tensors import save_tensors
from loricate.families.sd15 import SD15

__all__ = ["write_single_file"]


def write_single_file(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """Write the weights of a small pipeline of four levels in one file, its configs beside it.

    Args:
        folder: Where to; the file is called ``one.safetensors``.
        dtype: What floats are stored in.

    Returns:
        The pipeline, its weights those that the file holds.
    """
    tiny: Any = SD15.tiny().pipe
    levels = {"block_out_channels": [4] * 4, "layers_per_block": 2}
    with torch.random.fork_rng():
        vae = type(tiny.vae)(
            **levels,
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            norm_num_groups=2,
        )
        unet = type(tiny.unet)(
            **levels, sample_size=8, cross_attention_dim=16, attention_head_dim=2, norm_num_groups=2
        )
    parts = tiny.components | {"vae": vae, "unet": unet}
    pipe = type(tiny)(**parts, requires_safety_checker=False).to(dtype)
    pipe.save_pretrained(folder)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    weights = {
        _name_in_single_file(component, name): tensor[(...,) + (None,) * _extra(name, tensor)]
        for component in ("unet", "vae", "text_encoder")
        for name, tensor in getattr(pipe, component).state_dict().items()
    }
    tensors = {key: tensor.numpy() for key, tensor in weights.items()}
    save_tensors(folder / "one.safetensors", tensors)
    return pipe


def _name_in_single_file(component: str, name: str) -> str:
    module, leaf = name.rsplit(".", 1)
    if component == "text_encoder":
        return f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"
    prefix = {"unet": "model.diffusion_model", "vae": "first_stage_model"}[component]
    return f"{prefix}.{modules(component, 'sd1')[module]}.{leaf}"


def _extra(name: str, tensor: torch.Tensor) -> int:
    """Axes by which single files write the attention of autoencoders as convolutions."""
    is_of_vae = name.split(".")[1:3] == ["mid_block", "attentions"]
    return 2 if is_of_vae and tensor.ndim == 2 else 0
