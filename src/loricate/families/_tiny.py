"""A pipeline of real classes, its weights random and its tokenizer written on the spot."""

import json
import tempfile
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

__all__ = ["tiny_pipeline", "tiny_tokenizer"]


def tiny_pipeline() -> StableDiffusionPipeline:
    """Stable Diffusion of 32 x 32 pictures with under 100,000 weights.

    Returns:
        The pipeline; its weights come from torch's global generator.
    """
    tokenizer = tiny_tokenizer()
    return StableDiffusionPipeline(
        vae=_vae(),
        text_encoder=_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def tiny_tokenizer(max_length: int = 16) -> CLIPTokenizer:
    """A CLIP tokenizer with one token a byte and no merges.

    Args:
        max_length: Tokens of a prompt, start and end included.

    Returns:
        The tokenizer.
    """
    symbols = list(bytes_to_unicode().values())
    vocabulary = [*symbols, *(f"{s}</w>" for s in symbols), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        table = {token: index for index, token in enumerate(vocabulary)}
        (path / "vocab.json").write_text(json.dumps(table))
        (path / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer(
            str(path / "vocab.json"), str(path / "merges.txt"), model_max_length=max_length
        )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=32,
        block_out_channels=[4, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return CLIPTextModel(config)


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=[8, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
