"""Tiny pipelines with the real block structure, so that every module has its real name."""

import copy
import inspect

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update

PARTS = ("unet", "text_encoder", "text_encoder_2", "vae")


def _text(n_layers, *, projected=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=n_layers,
        num_attention_heads=2,
        vocab_size=99,
        projection_dim=12,
        bos_token_id=97,
        eos_token_id=98,
        pad_token_id=0,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def _vae():
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=2,
        norm_num_groups=4,
    ).eval()


def _pipeline(cls, **parts):
    from diffusers import DDIMScheduler

    known = inspect.signature(cls.__init__).parameters
    missing = ("tokenizer", "tokenizer_2", "safety_checker", "feature_extractor")
    parts |= dict.fromkeys(set(missing) & known.keys())
    if "requires_safety_checker" in known:
        parts["requires_safety_checker"] = False
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    return cls(scheduler=scheduler, **parts)


def _sd15():
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=16,
    ).eval()
    return _pipeline(StableDiffusionPipeline, unet=unet, text_encoder=_text(12), vae=_vae())


def _sdxl():
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(4, 8, 8),
        transformer_layers_per_block=(1, 2, 10),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=36,
    ).eval()
    towers = {"text_encoder": _text(12), "text_encoder_2": _text(32, projected=True)}
    return _pipeline(StableDiffusionXLPipeline, unet=unet, vae=_vae(), **towers)


@pytest.fixture(scope="session")
def pipelines():
    """SD 1.5 and XL in tiny, by name; copy before changing."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {"sd15": _sd15(), "sdxl": _sdxl()}


@pytest.fixture
def fresh(pipelines):
    """Copy of a pipeline, by name."""

    def copied(name):
        pipe = pipelines[name]
        parts = {part: copy.deepcopy(pipe.components[part]) for part in parts_of(pipe)}
        return _pipeline(type(pipe), **parts)

    return copied


def parts_of(pipe):
    return [part for part in PARTS if pipe.components.get(part) is not None]


@pytest.fixture
def adapter_for(rng):
    """Updates of every linear layer and convolution of some parts of a pipeline."""
    import torch

    def made(pipe, *parts, every=1):
        updates = {}
        for part in parts or parts_of(pipe):
            layers = [
                (name, module)
                for name, module in pipe.components[part].named_modules()
                if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
            ]
            for name, module in layers[::every]:
                rank = int(rng.integers(1, 4))
                shape = tuple(module.weight.shape)
                a = rng.standard_normal((rank, *shape[1:])).astype(np.float32)
                b = rng.standard_normal((shape[0], rank)).astype(np.float32)
                b = b.reshape(*b.shape, *(1,) * (len(shape) - 2))
                scale = 0.1 / np.sqrt(np.prod(shape[1:]) * rank)
                prefix = (
                    "text_model."
                    if name.startswith("encoder.layers") and part == "text_encoder"
                    else ""
                )
                updates[Target(part, prefix + name)] = Update.from_factors(a, b, float(scale))
        return Adapter(updates)

    return made


@pytest.fixture
def outputs():
    """What the parts of a pipeline compute, on inputs that are always the same."""
    import torch

    @torch.no_grad()
    def of(pipe):
        generator = torch.Generator().manual_seed(1)

        def randn(*shape):
            return torch.randn(shape, generator=generator)

        ids = torch.arange(7)[None] + 3
        found = {}
        for part in ("text_encoder", "text_encoder_2"):
            if (model := pipe.components.get(part)) is not None:
                found[part] = model(ids).last_hidden_state
                if "projection" in type(model).__name__.lower():
                    found[f"{part}.pooled"] = model(ids).text_embeds
        unet = pipe.unet
        width = unet.config.cross_attention_dim
        more = {}
        if unet.config.addition_embed_type:
            added = {"text_embeds": randn(1, 12), "time_ids": randn(1, 6)}
            more = {"added_cond_kwargs": added}
        context = randn(1, 7, width)
        found["unet"] = unet(randn(1, 4, 8, 8), 7, context, **more).sample
        latents = pipe.vae.encode(randn(1, 3, 16, 16)).latent_dist.parameters
        found["vae"] = torch.cat(
            [latents.flatten(), pipe.vae.decode(randn(1, 4, 2, 2)).sample.flatten()]
        )
        return found

    return of


@pytest.fixture
def baked():
    """A pipeline with an adapter added to its weights."""
    import torch

    def into(pipe, adapter):
        for (part, module), update in adapter.items():
            model = pipe.components[part]
            names = (module, module.removeprefix("text_model."))
            known = dict(model.named_modules())
            layer = next(known[name] for name in names if name in known)
            layer.weight.data += torch.asarray(np.asarray(update.dense()))
        return pipe

    return into
