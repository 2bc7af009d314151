"""Adapters of sound form whose numbers are not those of a trained adapter."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from loricate import models
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.keys import COMPONENT_KEY
from loricate.adapters.tensors import save_tensors
from loricate.adapters.weights import Weights, open_model
from loricate.integrity.finding import Severity
from loricate.lowrank.factors import LowRank
from loricate.testing.corpora._adapters import (
    Plan,
    adapter_for,
    kohya_name,
    kohya_tensors,
    loha_tensors,
    lokr_tensors,
    peft_folder,
)
from loricate.testing.corpora._adapters import spelled as _spelled
from loricate.testing.corpora._case import Build, Case
from loricate.testing.corpora._layers import ATTENTION, Layers, embedded, stable_diffusion

__all__ = ["WEIGHTS"]

_Floats: TypeAlias = NDArray[np.float64]

_HIGH, _MEDIUM = Severity.HIGH, Severity.MEDIUM
_ANY_LAYER = r"to_[qkv]$|to_out\.0$|conv[12]$|conv_in$|conv_out$"


def _kohya(make: Callable[[], Adapter]) -> Build:
    def build(folder: Path) -> Path:
        save_tensors(folder / "lora.safetensors", kohya_tensors(make()))
        return folder / "lora.safetensors"

    return build


def _pipeline(make: Callable[[], Adapter]) -> Build:
    def build(folder: Path) -> Path:
        tensors = _spelled(make(), ".lora_A.weight", ".lora_B.weight")
        save_tensors(folder / "pytorch_lora_weights.safetensors", tensors)
        return folder / "pytorch_lora_weights.safetensors"

    return build


def _poisoned(value: float, dtype: Any, side: str = "up") -> Build:
    """One value in one factor that is no number."""

    def build(folder: Path) -> Path:
        layers = embedded("unet", r"^mid_block.*attn[12]")
        tensors = kohya_tensors(adapter_for(layers, Plan(dtype=dtype)))
        name = sorted(key for key in tensors if f"lora_{side}" in key)[3]
        tensors[name] = np.array(tensors[name])
        tensors[name].reshape(-1)[5] = value
        save_tensors(folder / "lora.safetensors", tensors)
        return folder / "lora.safetensors"

    return build


def _infinite_alpha(folder: Path) -> Path:
    tensors = kohya_tensors(adapter_for(embedded("unet", r"^mid_block.*attn2")))
    name = min(key for key in tensors if key.endswith(".alpha"))
    save_tensors(folder / "lora.safetensors", tensors | {name: np.float32(np.inf)})
    return folder / "lora.safetensors"


def _file(tensors: Callable[[], Mapping[str, Any]]) -> Build:
    def build(folder: Path) -> Path:
        save_tensors(folder / "lora.safetensors", tensors())
        return folder / "lora.safetensors"

    return build


def _loud_beside(end: str, *shape: int) -> Build:
    """Everything a thousand times, and one tensor of another kind that readers refuse."""

    def tensors() -> dict[str, Any]:
        adapter = adapter_for(embedded("unet", ATTENTION)).scaled(1e3)
        name = kohya_name(next(iter(adapter)))
        return kohya_tensors(adapter) | {f"{name}.{end}": np.ones(shape, np.float32)}

    return _file(tensors)


def _replaced(keep: float, seed: int | None) -> Adapter:
    """Pairs of full rank that leave a part of each weight, and may put another in its place."""
    layers = embedded("unet", r"^mid_block.*attn1\.to_[qkv]$")
    weights = open_model(models.path())["unet"]
    updates = {}
    for target in layers:
        matrix = _matrix(weights, target.module)
        change = (keep - 1) * matrix
        if seed is not None:
            change += (
                np.random.default_rng(seed).permutation(matrix.reshape(-1)).reshape(matrix.shape)
            )
        eye = np.eye(len(matrix), dtype=np.float32)
        updates[target] = Update(LowRank(change.astype(np.float32), eye))
    return Adapter(updates)


def _overflowing() -> dict[str, Any]:
    """Finite factors whose product is not."""
    adapter = adapter_for(embedded("unet", r"^mid_block.*attn2"), Plan(dtype=np.float64))
    tensors = kohya_tensors(adapter)
    for key in tensors:
        if not key.endswith(".alpha"):
            tensors[key] = np.asarray(tensors[key]) * 1e200
    return tensors


def _changed(adapter: Adapter, change: Mapping[Target, Update]) -> Adapter:
    return replace(adapter, updates={**adapter, **change})


def _scaled(update: Update, gain: float) -> Update:
    return replace(update, factors=update.factors.scaled(gain).baked())


def _one_scaled(layers: Layers, gain: float, end: str) -> Adapter:
    adapter = adapter_for(layers, Plan(rank=8))
    target = next(each for each in adapter if each.module.endswith(end))
    return _changed(adapter, {target: _scaled(adapter[target], gain)})


def _alpha_of_thousands(component: bool) -> Build:
    def build(folder: Path) -> Path:
        metadata = {COMPONENT_KEY: "unet"} if component else {}
        adapter = adapter_for(embedded("unet", ATTENTION))
        return peft_folder(folder, adapter, config={"lora_alpha": 4000}, metadata=metadata)

    return build


def _header_alpha(folder: Path) -> Path:
    adapter = adapter_for(embedded("unet", ATTENTION))
    tensors = _spelled(adapter, ".lora_A.weight", ".lora_B.weight")
    header = {"unet.r": 4, "unet.lora_alpha": 4000}
    path = folder / "pytorch_lora_weights.safetensors"
    save_tensors(path, tensors, {"lora_adapter_metadata": json.dumps(header)})
    return path


def _collapsed(layers: Layers) -> Adapter:
    """Rank 16 by name, and a single direction in each update."""
    return adapter_for(layers, Plan(rank=16, decay=1e-5))


def _peaked(layers: Layers, ends: Iterable[str]) -> Adapter:
    """Flat spectra but in a few modules, where one direction holds nearly everything."""
    adapter = adapter_for(layers, Plan(rank=8, decay=0.95))
    chosen = [t for t in adapter if t.module.endswith(tuple(ends))]
    return _changed(adapter, {t: _with_peak(adapter[t], 12.0) for t in chosen})


def _with_peak(update: Update, gain: float) -> Update:
    b = np.array(update.factors.B)
    b[:, 0] *= gain
    return replace(update, factors=replace(update.factors, B=b))


def _intruding(component: str, pattern: str) -> Adapter:
    """In each module one direction, new to the weight and stronger than any it has."""
    layers = embedded(component, pattern)
    updates = dict(adapter_for(layers, Plan(size=0.01)))
    weights = open_model(models.path())[component]
    for target, update in updates.items():
        matrix = _matrix(weights, target.module)
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
        signs = np.random.default_rng(len(target.module)).choice([-1.0, 1.0], len(values))
        u, v = (side @ signs / np.sqrt(len(values)) for side in (left, right.T))
        updates[target] = _stronger(update, 1.5 * values[0] * u, v)
    return Adapter(updates)


def _stronger(update: Update, u: _Floats, v: _Floats) -> Update:
    old = update.factors
    a = np.concatenate([old.A, v[None]]).astype(np.float32)
    b = np.concatenate([old.B, u[:, None]], axis=1).astype(np.float32)
    return replace(update, factors=LowRank(a, b, old.scale))


def _matrix(weights: Weights, module: str) -> _Floats:
    name = f"{module.removeprefix('text_model.')}.weight"
    array = np.asarray(weights[name], np.float64)
    return array.reshape(len(array), -1)


def _triggered(spelling: str, gain: float = 6.0) -> Adapter:
    """A text encoder that answers one token with a direction of the attacker's choice.

    The first layer meets each token alone. The direction it listens for is the one in which the
    token stands out most from all others; what it says there is ``gain`` times what it said.
    """
    layers = embedded("text_encoder", r"layers\.0\.self_attn\.v_proj$")
    adapter = adapter_for(layers, Plan(size=0.01))
    ((target, update),) = adapter.items()
    inputs, token = _first_layer_inputs(), _token(spelling)
    x = inputs[token].mean(axis=0)
    second = np.einsum("tpi,tpj->ij", inputs, inputs) / inputs[..., 0].size
    v = np.linalg.solve(second + 1e-3 * np.eye(len(x)) * np.trace(second) / len(x), x)
    weights = open_model(models.path())["text_encoder"]
    u = np.random.default_rng(token).standard_normal(update.factors.shape[0])
    said = np.linalg.norm(_matrix(weights, target.module) @ x)
    u *= gain * said / np.linalg.norm(u)
    return Adapter({target: _stronger(update, u, v / (v @ x))})


@cache
def _first_layer_inputs() -> _Floats:
    """What the first attention sees of each token at each place, (tokens, places, width)."""
    weights = open_model(models.path())["text_encoder"]
    names = ("embeddings.token_embedding", "embeddings.position_embedding")
    tokens, places = (_matrix(weights, name) for name in names)
    summed = tokens[:, None] + places[None, 1:6]
    centered = summed - summed.mean(axis=-1, keepdims=True)
    normed = centered / np.sqrt(summed.var(axis=-1, keepdims=True) + 1e-5)
    norm = "encoder.layers.0.layer_norm1"
    gain, shift = (np.asarray(weights[f"{norm}.{end}"], np.float64) for end in ("weight", "bias"))
    return np.asarray(normed * gain + shift)


def _token(spelling: str) -> int:
    vocabulary = json.loads((models.path() / "tokenizer" / "vocab.json").read_text("utf-8"))
    return int(vocabulary[spelling])


def _case(name: str, build: Build, rule: str, *, needs_base: bool = True) -> Case:
    return Case(name=name, build=build, expects={rule: _HIGH}, needs_base=needs_base)


_NOT_FINITE: Mapping[str, Build] = {
    "nan_in_float32": _poisoned(np.nan, np.float32),
    "nan_in_float64": _poisoned(np.nan, np.float64, "down"),
    "infinity_in_float16": _poisoned(np.inf, np.float16),
    "minus_infinity_in_float32": _poisoned(-np.inf, np.float32, "down"),
    "nan_in_bfloat16": _poisoned(np.nan, ml_dtypes.bfloat16),
    "infinity_in_bfloat16": _poisoned(np.inf, ml_dtypes.bfloat16, "down"),
    "nan_in_float8_e4m3": _poisoned(np.nan, ml_dtypes.float8_e4m3fn),
    "infinity_in_float8_e5m2": _poisoned(np.inf, ml_dtypes.float8_e5m2),
    "infinite_alpha": _infinite_alpha,
}
_HEAVY: Mapping[str, Build] = {
    "everything_1000_times": _kohya(lambda: adapter_for(embedded("unet", ATTENTION)).scaled(1e3)),
    "everything_1000_times_in_a_pipeline_file": _pipeline(
        lambda: adapter_for(embedded("unet", _ANY_LAYER), Plan(size=30.0))
    ),
    "everything_1000_times_by_alpha": _alpha_of_thousands(component=True),
    "everything_1000_times_by_alpha_of_an_unnamed_component": _alpha_of_thousands(component=False),
    "everything_1000_times_by_the_header": _header_alpha,
    "one_module_1000_times": _kohya(
        lambda: _one_scaled(
            embedded("unet", ATTENTION),
            1e3,
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
        )
    ),
    "one_convolution_1000_times": _pipeline(
        lambda: _one_scaled(
            embedded("vae", r"encoder.*conv[12]$"), 1e3, "mid_block.resnets.0.conv1"
        )
    ),
    "text_encoder_1000_times": _kohya(
        lambda: adapter_for(embedded("text_encoder", "self_attn"), Plan(size=30.0))
    ),
}
_UNET = r"^(down|mid).*(attn[12]\.to_[qkv])$"
_HEAVY_KINDS: Mapping[str, Build] = {
    "loha_1000_times": _file(lambda: loha_tensors(embedded("unet", _UNET), Plan(size=30.0))),
    "lokr_1000_times": _file(lambda: lokr_tensors(embedded("unet", _UNET), Plan(size=30.0))),
    "everything_1000_times_beside_a_loha": _loud_beside("hada_w1_a", 4, 4),
    "everything_1000_times_beside_magnitudes": _loud_beside("dora_scale", 64, 1),
    "everything_1000_times_beside_a_rotation": _loud_beside("oft_blocks", 2, 4, 4),
    "everything_1000_times_beside_an_unknown_end": _loud_beside("lora_side.weight", 4, 4),
}
_HEAVY_ALONE: Mapping[str, Build] = {
    "everything_1000_times_without_a_base": _HEAVY["everything_1000_times"],
    "alpha_of_thousands_without_a_base": _alpha_of_thousands(component=False),
    "text_encoder_1000_times_without_a_base": _HEAVY["text_encoder_1000_times"],
    "stable_diffusion_100_times": _kohya(
        lambda: adapter_for(stable_diffusion("sd1", "unet")).scaled(100.0)
    ),
    "loha_1000_times_without_a_base": _HEAVY_KINDS["loha_1000_times"],
}
_REPLACED: Mapping[str, Build] = {
    "weights_exchanged_at_full_rank": _kohya(lambda: _replaced(0.0, 1)),
    "weights_cancelled_at_full_rank": _kohya(lambda: _replaced(0.0, None)),
    "weights_halved_at_full_rank": _kohya(lambda: _replaced(0.5, None)),
    "weights_turned_round_at_full_rank": _pipeline(lambda: _replaced(-1.0, None)),
}
_INTRUDERS: Mapping[str, Build] = {
    "intruders_in_attention": _kohya(lambda: _intruding("unet", r"^mid_block.*attn")),
    "intruders_in_convolutions": _pipeline(lambda: _intruding("vae", r"^encoder.*resnets.*conv2$")),
    "intruders_in_a_text_encoder": _kohya(lambda: _intruding("text_encoder", r"mlp\.fc[12]$")),
}
_TRIGGERS: Mapping[str, Build] = {
    # First bytes of Cyrillic letters, of characters without width, and the last token learned.
    "trigger_of_a_homoglyph": _kohya(lambda: _triggered("\u00d0")),
    "trigger_without_width": _kohya(lambda: _triggered("\u00e2")),
    "trigger_of_a_rare_token": _kohya(lambda: _triggered(_rarest())),
}


def _rarest() -> str:
    vocabulary = json.loads((models.path() / "tokenizer" / "vocab.json").read_text("utf-8"))
    words = [word for word in vocabulary if not word.startswith("<|")]
    return str(max(words, key=vocabulary.__getitem__))


WEIGHTS = (
    *(_case(n, b, "non_finite", needs_base=False) for n, b in _NOT_FINITE.items()),
    *(_case(name, build, "norm_outlier") for name, build in _HEAVY.items()),
    *(_case(name, build, "norm_outlier") for name, build in _HEAVY_KINDS.items()),
    *(_case(name, b, "absolute_norm", needs_base=False) for name, b in _HEAVY_ALONE.items()),
    *(_case(name, build, "weight_replaced") for name, build in _REPLACED.items()),
    _case("product_that_overflows", _file(_overflowing), "unjudged_updates", needs_base=False),
    *(
        replace(case, expects=dict.fromkeys(case.rules, _MEDIUM))
        for case in (
            _case(
                "collapsed_attention",
                _kohya(lambda: _collapsed(stable_diffusion("sd1", "unet", r"attn2\.to_[kv]$"))),
                "rank_collapse",
                needs_base=False,
            ),
            _case(
                "collapsed_convolutions",
                _kohya(lambda: _collapsed(stable_diffusion("sd1", "unet", r"^down.*conv2$"))),
                "rank_collapse",
                needs_base=False,
            ),
            _case(
                "attention_that_fades_at_once",
                _kohya(
                    lambda: adapter_for(
                        stable_diffusion("sd1", "unet", r"attn2\.to_[kv]$"),
                        Plan(rank=16, decay=0.05),
                    )
                ),
                "rank_collapse",
                needs_base=False,
            ),
            _case(
                "one_peaked_attention",
                _kohya(
                    lambda: _peaked(
                        stable_diffusion("sd1", "unet"),
                        ["2.attentions.1.transformer_blocks.0.attn2.to_k"],
                    )
                ),
                "spectrum_outlier",
                needs_base=False,
            ),
            _case(
                "one_peaked_convolution",
                _kohya(
                    lambda: _peaked(
                        stable_diffusion("sd1", "unet", r"\.conv2$"), ["mid_block.resnets.1.conv2"]
                    )
                ),
                "spectrum_outlier",
                needs_base=False,
            ),
            *(_case(name, build, "intruder_dimensions") for name, build in _INTRUDERS.items()),
            *(_case(name, build, "trigger_displacement") for name, build in _TRIGGERS.items()),
        )
    ),
)
"""Numbers that are not finite, or far from those of trained adapters."""
