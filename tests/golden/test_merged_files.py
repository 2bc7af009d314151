"""Models we bake, in the hands of diffusers, transformers and PEFT: attached and merged agree."""

import copy
import re

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.merged import Merged
from loricate.adapters.formats.peft import PEFT
from loricate.basics.arrays import to_numpy
from loricate.families.sd15 import SD15

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")
single_file_utils = pytest.importorskip("diffusers.loaders.single_file_utils")
pytestmark = pytest.mark.golden_live


@pytest.fixture(autouse=True)
def _torch_generator_is_lent():
    # PEFT initializes its layers from the global generator.
    with torch.random.fork_rng(devices=[]):
        yield


def unet_sd15():
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 8, 8),
        attention_head_dim=2,
        cross_attention_dim=8,
        norm_num_groups=2,
    )


def unet_sd2():
    unet = unet_sd15()
    return diffusers.UNet2DConditionModel.from_config(
        {**unet.config, "use_linear_projection": True}
    )


def unet_sdxl():
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8, 8),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2, 2),
        transformer_layers_per_block=(1, 2, 3),
        cross_attention_dim=8,
        norm_num_groups=2,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + 8,
    )


def text_encoder(cls=transformers.CLIPTextModel):
    config = transformers.CLIPTextConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        projection_dim=8,
        bos_token_id=18,
        eos_token_id=19,
    )
    return cls(config)


def text_encoder_2():
    return text_encoder(transformers.CLIPTextModelWithProjection)


def vae():
    return diffusers.AutoencoderKL(
        block_out_channels=(2, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        norm_num_groups=2,
        sample_size=16,
    )


MODELS = {
    "unet_sd15": (unet_sd15, "unet"),
    "unet_sdxl": (unet_sdxl, "unet"),
    "text_encoder": (text_encoder, "text_encoder"),
    "text_encoder_2": (text_encoder_2, "text_encoder_2"),
    "vae": (vae, "vae"),
}


@pytest.fixture(params=MODELS)
def named(request, seed):
    build, component = MODELS[request.param]
    torch.manual_seed(seed)
    return build().eval(), component


def adapter_of(model, component, rng):
    """An update of every Linear and Conv2d, ranks 1 to 3, large enough to matter."""
    updates = {}
    for module, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            shape, rank = tuple(layer.weight.shape), 1 + len(updates) % 3
            a = rng.standard_normal((rank, *shape[1:])) / np.prod(shape[1:]) ** 0.5
            b = 0.1 * rng.standard_normal((shape[0], rank) + (1,) * (len(shape) - 2))
            pair = (torch.asarray(factor, dtype=torch.float32) for factor in (a, b))
            updates[Target(component, module)] = Update.from_factors(*pair, scale=0.7)
    return Adapter(updates)


@torch.no_grad()
def outputs(model, component):
    draw = np.random.default_rng(7).standard_normal
    if component.startswith("text_encoder"):
        return model(torch.arange(8)[None] + 11).last_hidden_state
    if component == "vae":
        image = torch.asarray(draw((1, 3, 16, 16))).float()
        latent = model.encode(image).latent_dist.mean
        return torch.cat([latent.flatten(), model.decode(latent).sample.flatten()])
    added = {
        "text_embeds": torch.asarray(draw((1, 8))).float(),
        "time_ids": torch.arange(6.0)[None],
    }
    shapes = (1, 4, 8, 8), (1, 5, model.config.cross_attention_dim)
    latent, prompt = (torch.asarray(draw(shape)).float() for shape in shapes)
    return model(latent, 10, prompt, added_cond_kwargs=added).sample


def close(actual, expected):
    scale = float(expected.abs().max())
    torch.testing.assert_close(actual / scale, expected / scale, rtol=0, atol=1e-5)


# PEFT asks transformers for a name that transformers is giving up.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_baked_attached_and_merged_by_peft_agree(named, rng, tmp_path):
    model, component = named
    adapter = adapter_of(model, component, rng)
    PEFT().write(adapter, tmp_path / "adapter")
    attached = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter")
    expected = outputs(attached.base_model.model, component)
    before = outputs(model, component)
    assert (before - expected).abs().max() > 1e-2 * expected.abs().max()
    close(outputs(attached.merge_and_unload(), component), expected)

    model.save_pretrained(tmp_path / "base")
    Merged(base=tmp_path / "base", component=None).write(adapter, tmp_path / "baked")
    close(outputs(type(model).from_pretrained(tmp_path / "baked").eval(), component), expected)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A complete Stable Diffusion as diffusers saves it, and an adapter of all its models."""
    folder = tmp_path_factory.mktemp("pipeline") / "base"
    pipe = SD15.tiny().pipe
    pipe.save_pretrained(folder)
    rng = np.random.default_rng(3)
    parts = {name: getattr(pipe, name) for name in ("unet", "text_encoder", "vae")}
    updates = {t: u for name, m in parts.items() for t, u in adapter_of(m, name, rng).items()}
    return folder, parts, Adapter(updates)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_whole_pipeline_loads(pipeline, variant, tmp_path):
    folder, parts, adapter = pipeline
    if variant is not None:
        pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
        folder = tmp_path / "half"
        pipe.save_pretrained(folder, variant=variant)
    only = adapter.only(["unet", "text_encoder"])
    Merged(base=folder, component=None).write(only, tmp_path / "baked")
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(
        tmp_path / "baked", use_safetensors=True, safety_checker=None, variant=variant
    )
    for name, model in parts.items():
        expected = copy.deepcopy(model)
        for module, update in only.modules(name).items():
            expected.get_submodule(module).weight.data += update.dense()
        close(outputs(getattr(loaded, name).eval(), name), outputs(expected, name))


# What the modules of a latent diffusion checkpoint are called, for checkpoints made in the test.
# That the names are right is shown by diffusers, which reads the models back out of them.
UNET_NAMES = [
    (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"add_embedding\.linear_(\d)", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)", lambda m: block("input", m, 1)),
    (
        r"down_blocks\.(\d)\.downsamplers\.0\.conv",
        lambda m: f"input_blocks.{3 * int(m[1]) + 3}.0.op",
    ),
    (r"mid_block\.attentions\.0", "middle_block.1"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}"),
    (r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)", lambda m: block("output", m, 0)),
    (r"(_blocks\.\d+\.0|middle_block\.[02])\.norm1", r"\1.in_layers.0"),
    (r"(_blocks\.\d+\.0|middle_block\.[02])\.conv1", r"\1.in_layers.2"),
    (r"time_emb_proj", "emb_layers.1"),
    (r"(_blocks\.\d+\.0|middle_block\.[02])\.norm2", r"\1.out_layers.0"),
    (r"(_blocks\.\d+\.0|middle_block\.[02])\.conv2", r"\1.out_layers.3"),
    (r"conv_shortcut", "skip_connection"),
]
VAE_NAMES = [
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets", lambda m: f"up.{3 - int(m[1])}.block"),
    (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample"),
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"attn_1\.group_norm", "attn_1.norm"),
    (r"attn_1\.to_([qkv])", r"attn_1.\1"),
    (r"to_out\.0", "proj_out"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
]
OPEN_CLIP_NAMES = [
    (r"^text_model\.", ""),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.token_embedding", "token_embedding"),
    (r"encoder\.layers", "transformer.resblocks"),
    (r"final_layer_norm", "ln_final"),
    (r"layer_norm(\d)", r"ln_\1"),
    (r"self_attn", "attn"),
    (r"fc1", "c_fc"),
    (r"fc2", "c_proj"),
    (r"text_projection\.weight", "text_projection"),
]


def block(side, match, offset):
    index = 3 * int(match[1]) + int(match[3]) + offset
    return f"{side}_blocks.{index}.{0 if match[2] == 'resnets' else 1}"


def renamed(name, table):
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def in_ldm(model, kind):
    """Tensors of a model as a latent diffusion checkpoint has them, without prefix."""
    tensors = model.state_dict()
    if kind == "unet":
        ups = {i: hasattr(up, "attentions") for i, up in enumerate(model.up_blocks)}
        sampler = re.compile(r"up_blocks\.(\d)\.upsamplers\.0")
        place = lambda m: f"output_blocks.{3 * int(m[1]) + 2}.{1 + ups[int(m[1])]}"  # noqa: E731
        return {renamed(sampler.sub(place, n), UNET_NAMES): t for n, t in tensors.items()}
    if kind == "vae":
        named = {renamed(n, VAE_NAMES): t for n, t in tensors.items()}
        kernels = {
            n: t[..., None, None] for n, t in named.items() if ".attn_1." in n and t.ndim == 2
        }
        return named | kernels
    canonical = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in tensors.items()}
    if kind == "clip":
        return {n: t for n, t in canonical.items() if "text_projection" not in n}
    if "text_model.text_projection.weight" in canonical:
        canonical["text_projection.weight"] = canonical.pop("text_model.text_projection.weight").T
    return fused({renamed(n, OPEN_CLIP_NAMES): t for n, t in canonical.items()})


def fused(tensors):
    parts = re.compile(r"\.([qkv])_proj\.(\w+)$")
    names = {parts.sub(r".in_proj_\2", name) for name in tensors if parts.search(name)}
    rest = {name: t for name, t in tensors.items() if not parts.search(name)}
    thirds = lambda n: [tensors[n.replace(".in_proj_", f".{x}_proj.")] for x in "qkv"]  # noqa: E731
    return rest | {name: torch.cat(thirds(name)) for name in names}


CHECKPOINTS = {
    "sd15": {
        "model.diffusion_model.": (unet_sd15, "unet", "unet"),
        "first_stage_model.": (vae, "vae", "vae"),
        "cond_stage_model.transformer.": (text_encoder, "clip", "text_encoder"),
    },
    "sd2": {
        "model.diffusion_model.": (unet_sd2, "unet", "unet"),
        "first_stage_model.": (vae, "vae", "vae"),
        "cond_stage_model.model.": (text_encoder, "open_clip", "text_encoder"),
    },
    "sdxl": {
        "model.diffusion_model.": (unet_sdxl, "unet", "unet"),
        "first_stage_model.": (vae, "vae", "vae"),
        "conditioner.embedders.0.transformer.": (text_encoder, "clip", "text_encoder"),
        "conditioner.embedders.1.model.": (text_encoder_2, "open_clip", "text_encoder_2"),
    },
}


def read_by_diffusers(tensors, prefix, kind, model):
    """State of a model as diffusers reads it out of a checkpoint."""
    if kind == "unet":
        return single_file_utils.convert_ldm_unet_checkpoint(tensors, model.config)
    if kind == "vae":
        return single_file_utils.convert_ldm_vae_checkpoint(tensors, model.config)
    if kind == "clip":
        return single_file_utils.convert_ldm_clip_checkpoint(tensors)
    return single_file_utils.convert_open_clip_checkpoint(model, dict(tensors), prefix)


def load(model, state):
    """A copy of a model with another state, whichever spelling of the text model it has."""
    own, copied = model.state_dict(), copy.deepcopy(model)
    found = {n: state[n] if n in state else state[f"text_model.{n}"] for n in own}
    copied.load_state_dict(found)
    return copied


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_checkpoint_keeps_its_layout_and_takes_every_update(family, rng, seed, tmp_path):
    torch.manual_seed(seed)
    parts = {p: (build().eval(), *rest) for p, (build, *rest) in CHECKPOINTS[family].items()}
    tensors, updates = {"betas": torch.linspace(0, 1, 5)}, {}
    for prefix, (model, kind, component) in parts.items():
        tensors |= {prefix + n: t.contiguous() for n, t in in_ldm(model, kind).items()}
        updates |= adapter_of(model, component, rng)
    adapter = Adapter(updates)
    base, out = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    safetensors_torch.save_file(tensors, base)
    Merged(base=base, component=None).write(adapter, out)
    baked = safetensors_torch.load_file(out)

    assert baked.keys() == tensors.keys()
    assert {n: (t.dtype, t.shape) for n, t in baked.items()} == {
        n: (t.dtype, t.shape) for n, t in tensors.items()
    }
    unchanged = [n for n, t in tensors.items() if torch.equal(baked[n], t)]
    assert "betas" in unchanged
    for prefix, (model, kind, component) in parts.items():
        # Those left alone have no Linear or Conv2d around them: norms, biases and embeddings.
        left_alone = [n for n in unchanged if n.startswith(prefix) and baked[n].ndim > 1]
        assert all("embedding" in name for name in left_alone)
        expected = copy.deepcopy(model)
        for module, update in adapter.modules(component).items():
            expected.get_submodule(module).weight.data += update.dense()
        actual = load(model, read_by_diffusers(baked, prefix, kind, model))
        close(outputs(actual, component), outputs(expected, component))


@pytest.mark.parametrize("prefix", ["", "first_stage_model."])
def test_a_vae_file_is_a_drop_in(prefix, rng, seed, tmp_path):
    torch.manual_seed(seed)
    model = vae().eval()
    model.save_pretrained(tmp_path / "vae")
    adapter = adapter_of(model, "vae", rng)
    expected = copy.deepcopy(model)
    for target, update in adapter.items():
        expected.get_submodule(target.module).weight.data += update.dense()
    file = tmp_path / "vae.safetensors"
    Merged(base=tmp_path / "vae", component=None, vae_prefix=prefix).write(adapter, file)
    baked = safetensors_torch.load_file(file)
    assert {n: t.shape for n, t in baked.items()} == {
        prefix + n: t.shape for n, t in in_ldm(model, "vae").items()
    }
    loaded = diffusers.AutoencoderKL.from_single_file(str(file), config=str(tmp_path / "vae"))
    close(outputs(loaded.eval(), "vae"), outputs(expected, "vae"))
    # The file is a base itself: what it takes now is taken on top.
    Merged(base=file, component=None).write(adapter, tmp_path / "twice.safetensors")
    for target, update in adapter.items():
        expected.get_submodule(target.module).weight.data += update.dense()
    twice = diffusers.AutoencoderKL.from_single_file(
        str(tmp_path / "twice.safetensors"), config=str(tmp_path / "vae")
    )
    close(outputs(twice.eval(), "vae"), outputs(expected, "vae"))


def test_updates_are_read_back_from_a_checkpoint_under_their_diffusers_names(rng, seed, tmp_path):
    torch.manual_seed(seed)
    prefix, (build, kind, component) = list(CHECKPOINTS["sdxl"].items())[-1]
    model = build().eval().double()
    base, out = tmp_path / "base.safetensors", tmp_path / "out.safetensors"
    tensors = {prefix + n: t.contiguous() for n, t in in_ldm(model, kind).items()}
    safetensors_torch.save_file(tensors, base)
    adapter = adapter_of(model, component, rng)
    form = Merged(base=base, component=component)
    form.write(adapter, out)
    back = form.read(out)
    assert back.keys() == adapter.keys()
    for target, update in adapter.items():
        off, dense = back[target].dense() - to_numpy(update.dense()), to_numpy(update.dense())
        assert np.linalg.norm(off) <= (1 - form.rule.p) ** 0.5 * np.linalg.norm(dense)
        assert back[target].rank == update.rank
