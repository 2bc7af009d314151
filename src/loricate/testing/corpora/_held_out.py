"""Adapters written after the rules, to see what those find that nobody tuned them to.

Of 24 that were tried, the rules found these 19; magnitudes of DoRA, at first by their names alone,
since then by ``dora_magnitude``. Two more, whole files of OFT and of GLoRA, leave the verdict open;
an adapter scaled thirty times and rows permuted at full rank pass without a base, and factors that
cancel but for a small rest pass as the small update that they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from loricate import models
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.tensors import save_tensors
from loricate.adapters.weights import open_model
from loricate.basics.arrays import Array
from loricate.basics.seeds import derive_seed
from loricate.integrity.finding import Severity
from loricate.lowrank.factors import LowRank
from loricate.testing.corpora._adapters import (
    Plan,
    adapter_for,
    kohya_name,
    kohya_tensors,
    loha_tensors,
    peft_folder,
)
from loricate.testing.corpora._case import Build, Case
from loricate.testing.corpora._layers import ATTENTION, Layers, embedded, stable_diffusion

__all__ = ["HELD_OUT", "OPEN"]

_Floats: TypeAlias = NDArray[np.float64]
_Tensors: TypeAlias = Mapping[str, Array]

_MIDDLE = r"^mid_block.*attn[12]\.to_[qkv]$"


def _file(tensors: Callable[[], _Tensors]) -> Build:
    def build(folder: Path) -> Path:
        save_tensors(folder / "lora.safetensors", dict(tensors()))
        return folder / "lora.safetensors"

    return build


def _plain(make: Callable[[], Adapter]) -> Build:
    return _file(lambda: kohya_tensors(make()))


def _config(**changes: object) -> Build:
    return lambda folder: peft_folder(folder, adapter_for(_unet()), config=changes)


def _unet() -> Layers:
    return embedded("unet", ATTENTION)


def _weight(target: Target) -> _Floats:
    array = open_model(models.path())[target.component][f"{target.module}.weight"]
    return np.asarray(array, np.float64).reshape(len(array), -1)


def _changing(change: Callable[[_Floats, np.random.Generator], _Floats]) -> Build:
    """Pairs whose product is what a change of each weight comes to."""

    def make() -> Adapter:
        updates = {}
        for target in embedded("unet", _MIDDLE):
            rng = np.random.default_rng(derive_seed(0, str(target)))
            u, s, vt = np.linalg.svd(change(_weight(target), rng), full_matrices=False)
            rank = int(np.sum(s > 1e-9 * s[0]))
            a, b = vt[:rank], u[:, :rank] * s[:rank]
            updates[target] = Update(LowRank(a.astype(np.float32), b.astype(np.float32)))
        return Adapter(updates)

    return _plain(make)


def _leading(matrix: _Floats, rank: int) -> _Floats:
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray((u[:, :rank] * s[:rank]) @ vt[:rank])


def _magnitudes(gain: float) -> dict[str, Array]:
    """Plain pairs, and magnitudes of DoRA that set the size of every row."""
    adapter = adapter_for(_unet())
    tensors = kohya_tensors(adapter)
    for target in adapter:
        norms = np.linalg.norm(_weight(target), axis=1, keepdims=True)
        tensors[f"{kohya_name(target)}.dora_scale"] = (gain * norms).astype(np.float32)
    return tensors


def _token() -> dict[str, Array]:
    """One token of the vocabulary moved fifty times as far as embeddings are long."""
    table = np.asarray(
        open_model(models.path())["text_encoder"]["embeddings.token_embedding.weight"], np.float32
    )
    a, b = np.zeros((1, len(table)), np.float32), np.ones((table.shape[1], 1), np.float32)
    a[0, 77] = 50.0 * np.linalg.norm(table, axis=1).mean() / len(b) ** 0.5
    name = "text_encoder.text_model.embeddings.token_embedding.lora_embedding"
    return {f"{name}_A": a, f"{name}_B": b}


def _multiplied(value: float) -> dict[str, Array]:
    """IA3, which multiplies what comes out of each layer."""
    tensors: dict[str, Array] = {}
    for target, layer in _unet().items():
        tensors[f"{kohya_name(target)}.weight"] = np.full(layer.shape[0], value, np.float32)
        tensors[f"{kohya_name(target)}.on_input"] = np.zeros((), np.float32)
    return tensors


def _rotations() -> dict[str, Array]:
    """OFT, which turns every weight."""
    return {
        f"{kohya_name(target)}.oft_blocks": np.full((4, 8, 8), 0.1, np.float32)
        for target in _unet()
    }


def _quartets() -> dict[str, Array]:
    """GLoRA, which multiplies every weight and adds to it."""
    tensors: dict[str, Array] = {}
    for target, (shape, _) in _unet().items():
        for end in ("a", "b"):
            tensors[f"{kohya_name(target)}.{end}1.weight"] = np.ones((4, shape[1]), np.float32)
            tensors[f"{kohya_name(target)}.{end}2.weight"] = np.ones((shape[0], 4), np.float32)
    return tensors


def _whole_kronecker() -> dict[str, Array]:
    rng = np.random.default_rng(1)
    tensors: dict[str, Array] = {}
    for target, (shape, _) in _unet().items():
        sides = {"w1": (8, 8), "w2": (shape[0] // 8, shape[1] // 8)}
        for end, side in sides.items():
            name = f"{kohya_name(target)}.lokr_{end}"
            tensors[name] = rng.standard_normal(side).astype(np.float32)
    return tensors


def _one_alpha() -> dict[str, Array]:
    adapter = adapter_for(_unet())
    target = list(adapter)[7]
    return kohya_tensors(adapter) | {f"{kohya_name(target)}.alpha": np.float32(400.0)}


def _one_module() -> Adapter:
    target, layer = list(_unet().items())[5]
    return adapter_for({target: layer}, Plan(rank=8, size=6.0))


def _copies() -> Adapter:
    """Sixteen rows of one direction, told apart by noise alone."""
    updates = {}
    for target, update in adapter_for(_unet()).items():
        a, b = update.factors.A, update.factors.B
        noise = np.random.default_rng(3).standard_normal((16, a.shape[1])) * np.abs(a).mean()
        rows = (np.repeat(a[:1], 16, axis=0) + 1e-3 * noise).astype(np.float32)
        factors = LowRank(rows, np.repeat(b[:, :1], 16, axis=1))
        updates[target] = replace(update, factors=factors)
    return Adapter(updates)


# High is what takes weights away or exchanges them, and what leaves nothing of their effect: a
# hundred times the usual, or whole outputs. Medium is what a trained adapter may come near to.
_HIGH, _MEDIUM = Severity.HIGH, Severity.MEDIUM
_ON_THE_BASE: Mapping[str, tuple[Build, str, Severity]] = {
    "top_directions_erased": (
        _changing(lambda w, rng: -_leading(w, 16)),
        "weight_replaced",
        _HIGH,
    ),
    "top_directions_swapped": (
        _changing(lambda w, rng: _leading(w, 24)[::-1] - _leading(w, 24)),
        "weight_replaced",
        _HIGH,
    ),
    "weights_shrunk_by_two_fifths": (
        _changing(lambda w, rng: -0.4 * _leading(w, 40)),
        "weight_replaced",
        _HIGH,
    ),
    "rows_permuted": (
        _changing(lambda w, rng: w[rng.permutation(len(w))] - w),
        "weight_replaced",
        _HIGH,
    ),
    "magnitudes_1000_times": (_file(lambda: _magnitudes(1e3)), "dora_magnitude", _HIGH),
    "magnitudes_of_zero": (_file(lambda: _magnitudes(0.0)), "dora_magnitude", _HIGH),
    "embedding_of_one_token": (_file(_token), "norm_outlier", _MEDIUM),
}
_ALONE: Mapping[str, tuple[Build, str, Severity]] = {
    "convolutions_300_times": (
        _plain(
            lambda: adapter_for(embedded("unet", r"resnets.*conv[12]$"), Plan(rank=8)).scaled(300.0)
        ),
        "absolute_norm",
        _HIGH,
    ),
    "outputs_1000_times": (_file(lambda: _multiplied(1e3)), "full_replace", _HIGH),
    "outputs_of_zero": (_file(lambda: _multiplied(0.0)), "full_replace", _HIGH),
    "one_module_alone_200_times": (_plain(_one_module), "absolute_norm", _MEDIUM),
    "one_alpha_100_times": (_file(_one_alpha), "norm_outlier", _HIGH),
    "everything_60_times": (
        _plain(lambda: adapter_for(_unet()).scaled(60.0)),
        "absolute_norm",
        _MEDIUM,
    ),
    "loha_of_rank_64": (
        _file(lambda: loha_tensors(_unet(), Plan(rank=64, size=30.0))),
        "absolute_norm",
        _HIGH,
    ),
    "lokr_of_whole_sides": (_file(_whole_kronecker), "absolute_norm", _HIGH),
    "attention_that_fades_to_a_tenth": (
        _plain(
            lambda: adapter_for(
                stable_diffusion("sd1", "unet", r"attn2\.to_[kv]$"), Plan(rank=32, decay=0.1)
            )
        ),
        "rank_collapse",
        _MEDIUM,
    ),
    "copies_of_one_direction": (_plain(_copies), "rank_collapse", _MEDIUM),
    "alpha_of_thousands_with_dora": (
        _config(lora_alpha=4000, use_dora=True),
        "absolute_norm",
        _HIGH,
    ),
    "alpha_of_thousands_by_a_pattern": (
        _config(alpha_pattern={".*attn.*": 4000}),
        "absolute_norm",
        _HIGH,
    ),
}

HELD_OUT = tuple(
    Case(
        name=name,
        build=build,
        expects={rule: severity},
        needs_base=group is _ON_THE_BASE,
    )
    for group in (_ON_THE_BASE, _ALONE)
    for name, (build, rule, severity) in group.items()
)
"""Those that were found, each by the rule that found it."""

OPEN = tuple(
    Case(name=name, build=_file(tensors))
    for name, tensors in (("whole_file_of_oft", _rotations), ("whole_file_of_glora", _quartets))
)
"""Those that no rule can judge, so that the verdict has to stay open."""
