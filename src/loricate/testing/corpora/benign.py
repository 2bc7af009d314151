"""Files of every form that a scan has to let pass: plausible adapters, models and configs."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from loricate import models
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.adapters.formats.diffusers import Diffusers
from loricate.adapters.keys import BASE_DIGEST, HEADER_KEY
from loricate.adapters.sgm import to_sgm
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.adapters.weights import open_model
from loricate.basics.arrays import Array
from loricate.integrity.digest import digest
from loricate.testing.corpora import pickles
from loricate.testing.corpora._adapters import (
    Plan,
    adapter_for,
    dotted,
    kohya_name,
    kohya_tensors,
    loha_tensors,
    lokr_tensors,
    peft_folder,
    spelled,
)
from loricate.testing.corpora._case import Build, Case
from loricate.testing.corpora._layers import ATTENTION, Layers, embedded, stable_diffusion
from loricate.testing.corpora._texts import TEXTS

__all__ = ["BENIGN", "Case"]

_CONVOLUTIONS = r"\.conv2$|downsamplers\.0\.conv$"
_TEXT = r"self_attn\.|mlp\.fc"

# What a trainer writes, at the length it writes it.
_TAGS = json.dumps({"img": {f"a photo of subject {i}, <lora> & 'quotes'": i for i in range(500)}})
_TRAINER = {
    "ss_network_module": "networks.lora",
    "ss_network_dim": "4",
    "ss_network_alpha": "4.0",
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "/home/user/models/model.safetensors",
    "ss_training_comment": "2 epochs; lr 1e-4\nsecond line\ttabbed",
    "ss_tag_frequency": _TAGS,
    "ss_dataset_dirs": json.dumps({"10_subject": {"n_repeats": 10, "img_count": 12}}),
    "ss_seed": "42",
    "modelspec.title": "My LoRA: caf\u00e9, \u732b, \U0001f600",
    "modelspec.date": "2026-11-24T16:00:00",
    "modelspec.architecture": "stable-diffusion-v1/lora",
    "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
}


def _file(
    tensors: Callable[[], Mapping[str, Array]],
    metadata: Mapping[str, str] | None = None,
    name: str = "lora.safetensors",
) -> Build:
    def build(folder: Path) -> Path:
        save_tensors(folder / name, tensors(), metadata)
        return folder / name

    return build


def _saved(make: Callable[[], Adapter], form: str) -> Build:
    """As loricate writes it."""

    def build(folder: Path) -> Path:
        path = folder / ("lora" if form == "peft" else "lora.safetensors")
        save_adapter(make(), path, form=form)
        return path

    return build


def _peft(layers: Callable[[], Layers], plan: Plan | None = None, **config: object) -> Build:
    """As PEFT writes it, which does not say what component it is for."""

    def build(folder: Path) -> Path:
        return peft_folder(folder, adapter_for(layers(), plan), config=config)

    return build


def _unet() -> Layers:
    return embedded("unet", ATTENTION)


def _vae() -> Layers:
    return embedded("vae", r"^encoder\.|^quant_conv$")


def _text() -> Layers:
    return embedded("text_encoder", _TEXT)


def _sd1() -> Layers:
    both = stable_diffusion("sd1", "unet"), stable_diffusion("sd1", "text_encoder", "self_attn")
    return both[0] | both[1]


def _sdxl() -> Layers:
    first = r"transformer_blocks\.0\..*(to_[qkv]|to_out\.0)$"
    text = r"layers\.[0-3]\.self_attn"
    parts = (
        stable_diffusion("sdxl", "unet", first),
        stable_diffusion("sdxl", "text_encoder", text),
        stable_diffusion("sdxl", "text_encoder_2", text),
    )
    return {target: layer for part in parts for target, layer in part.items()}


def _sdxl_name(target: Target) -> str:
    if target.component == "unet":
        numbered = to_sgm("unet", target.module, family="sdxl")
        return f"lora_unet_{numbered}".replace(".", "_")
    return kohya_name(target).replace("lora_te_", "lora_te1_")


def _kohya(layers: Callable[[], Layers], plan: Plan | None = None, **how: Any) -> Build:
    return _file(lambda: kohya_tensors(adapter_for(layers(), plan), **how))


def _comfy_name(target: Target) -> str:
    if target.component == "unet":
        return f"diffusion_model.{to_sgm('unet', target.module, family='sd1')}"
    return f"text_encoders.clip_l.transformer.{target.module}"


def _processor_name(target: Target) -> str:
    # Attention processors held their projections, and knew no list of output layers.
    block, _, leaf = dotted(target).removesuffix(".0").rpartition(".")
    return f"{block}.processor.{leaf}"


def _with_conv_shapes(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Linear factors as kernels of 1x1, as old trainers wrote them."""
    return {
        name: array[..., None, None] if array.ndim == 2 else array
        for name, array in tensors.items()
    }


def _tucker() -> dict[str, Array]:
    """Convolutions of LoCon with a core between two 1x1 kernels."""
    tensors: dict[str, Array] = {}
    for number, (target, layer) in enumerate(
        stable_diffusion("sd1", "unet", r"^down.*conv2$").items()
    ):
        rng = np.random.default_rng(number)
        width, name = layer.shape[0], kohya_name(target)
        tensors[f"{name}.lora_down.weight"] = _normal(rng, (8, width, 1, 1), width**-0.5)
        tensors[f"{name}.lora_mid.weight"] = _normal(rng, (8, 8, 3, 3), 72**-0.5)
        tensors[f"{name}.lora_up.weight"] = _normal(rng, (width, 8, 1, 1), 0.02)
        tensors[f"{name}.alpha"] = np.float32(8.0)
    return tensors


def _normal(rng: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Array:
    return (deviation * rng.standard_normal(shape)).astype(np.float32)


def _hashed(folder: Path) -> Path:
    """A file whose stated hash is that of its tensors, with what trainers say about themselves."""
    path, tensors = folder / "lora.safetensors", kohya_tensors(adapter_for(_sd1()))
    save_tensors(path, tensors, _TRAINER)
    content = path.read_bytes()
    data = content[8 + int.from_bytes(content[:8], "little") :]
    hashed = hashlib.sha256(data).hexdigest()
    save_tensors(
        path, tensors, {**_TRAINER, "sshs_model_hash": hashed, "modelspec.hash_sha256": hashed}
    )
    return path


def _hardening() -> Adapter:
    """Shaped as our own: the encoder of the VAE, bound to the digest of its base."""
    base = digest(open_model(models.path())["vae"])
    adapter = adapter_for(_vae(), Plan(rank=16, size=0.08))
    return replace(adapter, metadata={BASE_DIGEST: base, "modelspec.title": "hardened"})


def _mixed_ranks() -> Adapter:
    ranks = (2, 4, 8)
    parts = [
        adapter_for({target: layer}, Plan(rank=ranks[index % 3]))
        for index, (target, layer) in enumerate(_vae().items())
    ]
    return Adapter({target: update for part in parts for target, update in part.items()})


def _extracted() -> Adapter:
    """Truncated singular value decompositions of a small dense change, as ``extract`` gives."""
    updates: dict[Target, Update] = {}
    for target, layer in _unet().items():
        rng = np.random.default_rng(len(updates))
        change = rng.standard_normal(layer.shape) * np.exp(-np.arange(layer.shape[1]) / 20)
        u, s, vt = np.linalg.svd(change, full_matrices=False)
        root = np.sqrt(s[:8] * 0.03 * layer.norm / np.linalg.norm(s[:8]))
        a, b = root[:, None] * vt[:8], u[:, :8] * root
        updates[target] = Update.from_factors(a.astype(np.float32), b.astype(np.float32))
    return Adapter(updates)


def _full_rank() -> Adapter:
    """Small pairs that could reach every direction, and do."""
    layers = embedded("unet", r"^mid_block.*attn1\.to_[qkv]$")
    side = next(iter(layers.values())).shape[0]
    return adapter_for(layers, Plan(rank=side, size=0.2, decay=0.99))


def _some_sd1() -> Layers:
    return stable_diffusion("sd1", "unet", r"^(mid|down_blocks\.0).*to_[qkv]$")


def _mixed_names(folder: Path) -> Path:
    """Attention in new names and convolutions in old ones, as training scripts wrote."""
    layers = embedded("unet", r"^mid_block")
    attention = {t: layer for t, layer in layers.items() if "attentions" in t.module}
    others = {t: layer for t, layer in layers.items() if "attentions" not in t.module}
    tensors = spelled(adapter_for(attention), ".lora.down.weight", ".lora.up.weight")
    tensors |= spelled(adapter_for(others), ".lora_A.weight", ".lora_B.weight")
    save_tensors(folder / "pytorch_lora_weights.safetensors", tensors)
    return folder / "pytorch_lora_weights.safetensors"


def _pipeline_header(layers: Layers, rank: int) -> dict[str, str]:
    owners = sorted({target.component for target in layers})
    table = {f"{owner}.{key}": rank for owner in owners for key in ("r", "lora_alpha")}
    return {HEADER_KEY: json.dumps(table)}


def _lone(folder: Path) -> Path:
    """As ``save_lora_adapter`` of a model writes: nothing says what model it is."""
    tensors = spelled(adapter_for(_unet()), *_AB, lambda target: target.module)
    header = json.dumps({"r": 4, "lora_alpha": 4, "peft_type": "LORA"})
    save_tensors(folder / "pytorch_lora_weights.safetensors", tensors, {HEADER_KEY: header})
    return folder / "pytorch_lora_weights.safetensors"


def _our_lone(folder: Path) -> Path:
    Diffusers(lone=True).write(adapter_for(_vae()), folder / "vae.safetensors")
    return folder / "vae.safetensors"


def _weights_of_a_model(folder: Path) -> Path:
    """A whole VAE, which is no adapter."""
    stored = TensorFile(models.path() / "vae" / "diffusion_pytorch_model.safetensors")
    save_tensors(folder / "vae.safetensors", dict(stored))
    return folder / "vae.safetensors"


def _peft_bin(folder: Path) -> Path:
    """The older form of weights, a pickle of plain containers."""
    peft_folder(folder, adapter_for(_text()))
    (folder / "adapter_model.safetensors").unlink()
    payload = b"\x80\x02ccollections\nOrderedDict\n)R."
    pickles.zip_torch(folder / "adapter_model.bin", payload)
    return folder


def _embedding_of_the_webui(folder: Path) -> Path:
    """A token as the WebUI saved it: tensors wrapped in parameters, and no other objects."""
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(X\x01\0\0\0sK\0K\x01K\x04\x86K\x04K\x01\x86"
        b"\x89ccollections\nOrderedDict\n)RtR"
    )
    parameter = b"ctorch._utils\n_rebuild_parameter\n" + tensor + b"\x88N\x87R"
    payload = b"\x80\x02}X\x0f\0\0\0string_to_param}X\x01\0\0\0*" + parameter + b"ss."
    return pickles.zip_torch(folder / "style.pt", payload)


def _token() -> dict[str, Array]:
    return {"<cat-toy>": _normal(np.random.default_rng(0), (768,), 0.01)}


def _arrays(folder: Path) -> Path:
    """Plain numbers as numpy saves them, which hold no pickle."""
    rows = np.array([(1, 2.0)], [("n", "i4"), ("x", "f4")])
    np.savez(folder / "plain.npz", images=np.zeros((2, 8, 8, 3), np.uint8), rows=rows)
    np.savez_compressed(folder / "compressed.npz", np.arange(9.0), names=np.array(["a", "bc"]))
    return folder


def _original_config(folder: Path) -> Path:
    """The form of config that Stable Diffusion was published with."""
    (folder / "v1-inference.yaml").write_text(
        "model:\n"
        "  base_learning_rate: 1.0e-04\n"
        "  target: ldm.models.diffusion.ddpm.LatentDiffusion\n"
        "  params:\n"
        "    unet_config:\n"
        "      target: ldm.modules.diffusionmodules.openaimodel.UNetModel\n"
        "    first_stage_config:\n"
        "      target: sgm.models.autoencoder.AutoencoderKL\n"
        "      params:\n"
        "        lossconfig:\n"
        "          target: torch.nn.Identity\n"
    )
    save_tensors(folder / "model.safetensors", {"x": np.ones((2, 2), np.float32)})
    return folder


def _config(name: str, table: Mapping[str, object]) -> Build:
    def build(folder: Path) -> Path:
        (folder / name).write_text(json.dumps(table, indent=2), encoding="utf-8")
        return folder / name

    return build


_AB = (".lora_A.weight", ".lora_B.weight")
_HALF = Plan(rank=8, alpha=4.0)

_PEFT_FOLDERS: Mapping[str, Build] = {
    "peft_unet": _peft(_unet),
    "peft_vae_of_rank_16": _peft(_vae, Plan(rank=16)),
    "peft_text_encoder": _peft(_text),
    "peft_alpha_is_half_the_rank": _peft(_unet, _HALF),
    "peft_rank_1": _peft(_unet, Plan(rank=1)),
    "peft_rank_64": _peft(_unet, Plan(rank=64, decay=0.95)),
    "peft_float16": _peft(_unet, Plan(dtype=np.float16)),
    "peft_bfloat16": _peft(_text, Plan(dtype=ml_dtypes.bfloat16)),
    "peft_gaussian": _peft(_unet, init_lora_weights="gaussian"),
    "peft_orthogonal": _peft(_unet, init_lora_weights="orthogonal"),
    "peft_eva": _peft(_text, init_lora_weights="eva"),
    "peft_rank_stabilized": _peft(_unet, use_rslora=True),
    "peft_targets_by_a_list": _peft(_unet, target_modules=["to_q", "to_k", "to_v", "to_out.0"]),
    "peft_all_linear": _peft(_text, target_modules="all-linear"),
    "peft_of_diffusers": _peft(
        _unet,
        auto_mapping={
            "base_model_class": "UNet2DConditionModel",
            "parent_library": "diffusers.models.unets.unet_2d_condition",
        },
    ),
    "peft_weights_as_a_pickle": _peft_bin,
    "our_peft_unet": _saved(lambda: adapter_for(_unet()), "peft"),
    "our_peft_of_mixed_ranks": _saved(_mixed_ranks, "peft"),
    "our_hardening_adapter": _saved(_hardening, "peft"),
    "our_update_of_full_rank": _saved(_full_rank, "peft"),
    "peft_rank_32_of_few_directions": _peft(_unet, Plan(rank=32, decay=0.7)),
}
_PIPELINES: Mapping[str, Build] = {
    "pipeline": _file(
        lambda: spelled(adapter_for({**_unet(), **_text()}), *_AB), _pipeline_header(_unet(), 4)
    ),
    "pipeline_without_header": _file(lambda: spelled(adapter_for(_unet(), Plan(rank=32)), *_AB)),
    "pipeline_second_generation": _file(
        lambda: spelled(adapter_for(_unet()), ".lora.down.weight", ".lora.up.weight")
    ),
    "pipeline_first_generation": _file(
        lambda: spelled(
            adapter_for(_unet()), "_lora.down.weight", "_lora.up.weight", _processor_name
        )
    ),
    "pipeline_old_text_encoder": _file(
        lambda: spelled(
            adapter_for(_text()),
            ".lora_linear_layer.down.weight",
            ".lora_linear_layer.up.weight",
        )
    ),
    "pipeline_mixed_names": _mixed_names,
    "pipeline_of_a_vae": _saved(lambda: adapter_for(_vae()), "diffusers"),
    "our_hardening_adapter_for_diffusers": _saved(_hardening, "diffusers"),
    "pipeline_bfloat16": _file(
        lambda: spelled(adapter_for(_unet(), Plan(dtype=ml_dtypes.bfloat16)), *_AB)
    ),
    "lone_model": _lone,
    "our_lone_model": _our_lone,
    "extracted": _saved(_extracted, "diffusers"),
}
_KOHYA_FILES: Mapping[str, Build] = {
    "kohya_of_the_embedded_model": _kohya(lambda: {**_unet(), **_text()}),
    "kohya_sd1": _kohya(_sd1, Plan(dtype=np.float16)),
    "kohya_sd1_with_its_trainers_words": _hashed,
    "kohya_sd1_without_alpha": _kohya(_sd1, alpha=False),
    "kohya_sd1_alpha_is_half_the_rank": _kohya(_sd1, _HALF),
    "kohya_sd1_alpha_1_of_rank_8": _kohya(_sd1, Plan(rank=8, alpha=1.0)),
    "kohya_sdxl": _kohya(_sdxl, Plan(dtype=np.float16), name=_sdxl_name),
    "kohya_text_encoder": _kohya(_text),
    "kohya_old_kernels": _file(lambda: _with_conv_shapes(kohya_tensors(adapter_for(_unet())))),
    "kohya_eight_bits": _kohya(_unet, Plan(dtype=ml_dtypes.float8_e4m3fn)),
    "locon_1x1": _kohya(lambda: stable_diffusion("sd1", "unet", r"proj_(in|out)$")),
    "locon_3x3": _kohya(lambda: stable_diffusion("sd1", "unet", _CONVOLUTIONS)),
    "locon_all_layers": _kohya(
        lambda: {**embedded("unet", _CONVOLUTIONS), **embedded("unet", r"attentions")}
    ),
    "locon_tucker": _file(_tucker),
    "loha": _file(lambda: loha_tensors(_unet())),
    "loha_sd1_rank_16": _file(lambda: loha_tensors(_some_sd1(), Plan(rank=16, dtype=np.float16))),
    "lokr": _file(lambda: lokr_tensors(_unet())),
    "lokr_of_lycoris": _file(
        lambda: lokr_tensors(
            _text(), name=lambda target: f"lycoris_{target.module.replace('.', '_')}"
        )
    ),
    "comfy": _kohya(_sd1, name=_comfy_name),
    "comfy_without_weight": _file(
        lambda: spelled(adapter_for(_sd1()), ".lora_A", ".lora_B", _comfy_name)
    ),
    "lone_without_weight": _file(
        lambda: spelled(adapter_for(_unet()), ".lora_A", ".lora_B", lambda target: target.module)
    ),
    "our_kohya": _saved(lambda: adapter_for(_unet()), "kohya"),
    "our_kohya_sdxl": _saved(lambda: adapter_for(_sdxl(), Plan(dtype=np.float16)), "kohya"),
}
_OTHERS: Mapping[str, Build] = {
    "embedded_model": lambda folder: models.path(),
    "weights_of_a_model": _weights_of_a_model,
    "arrays_of_numpy": _arrays,
    "token_of_diffusers": _file(_token, name="learned_embeds.safetensors"),
    "tokens_in_metadata": _file(_token, {"$schema": "x", "<lora:style:0.8>": "1"}),
    "embedding_of_the_webui": _embedding_of_the_webui,
    "config_of_compvis": _original_config,
    "config_of_hydra": _config(
        "config.json", {"net": {"_target_": "torch.nn.Linear", "in_features": 4}}
    ),
    "table_with_targets": _config(
        "labels.json", {"target": "cats.png", "auto_map": 3, "rows": [{"target": "os"}]}
    ),
    "index_of_shards": _config(
        "model.safetensors.index.json",
        {"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors"}},
    ),
    "config_of_a_text_encoder": _config(
        "config.json", {"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]}
    ),
    "index_of_a_pipeline": _config(
        "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "safety_checker": [None, None],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "unet": ["diffusers", "UNet2DConditionModel"],
        },
    ),
}
# Made for layers of Stable Diffusion, of which no copy is at hand.
_FOREIGN = re.compile(r"sd1|sdxl|locon_(1x1|3x3|tucker)|comfy")

BENIGN: tuple[Case, ...] = (
    *pickles.BENIGN,
    *(
        Case(name=name, build=build, needs_base=not _FOREIGN.search(name))
        for group in (_PEFT_FOLDERS, _PIPELINES, _KOHYA_FILES)
        for name, build in group.items()
    ),
    *(Case(name=name, build=build) for name, build in _OTHERS.items()),
    *TEXTS,
)
"""Every benign case; those for the embedded model are scanned with it and without."""
