"""Plausible adapters without training, and every way of spelling them in a file."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.tensors import save_tensors
from loricate.basics.arrays import Array
from loricate.basics.seeds import derive_seed
from loricate.lowrank.factors import LowRank
from loricate.testing.corpora._layers import Layers

__all__ = [
    "Plan",
    "adapter_for",
    "dotted",
    "kohya_name",
    "kohya_tensors",
    "loha_tensors",
    "lokr_tensors",
    "peft_folder",
    "plain_config",
    "spelled",
]

_KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an adapter looks like.

    Args:
        rank: Rank of every update.
        size: Frobenius norm of a typical update, relative to that of its weight.
        decay: Ratio of the norms of two columns of ``B`` that follow each other.
        alpha: What stands above the rank in the scale; ``None`` is the rank itself.
        dtype: Of the factors.
        seed: What else tells two adapters apart.
    """

    rank: int = 4
    size: float = 0.03
    decay: float = 0.75
    alpha: float | None = None
    dtype: Any = np.float32
    seed: int = 0


def adapter_for(layers: Layers, plan: Plan | None = None) -> Adapter:
    """Updates as training leaves them: ``A`` near its uniform start, ``B`` of falling strength.

    Args:
        layers: What is updated.
        plan: How.
    """
    plan = plan or Plan()
    updates = {}
    for target, layer in layers.items():
        rng = np.random.default_rng(derive_seed(plan.seed, str(target)))
        kernel = layer.shape[1:]
        bound = 1 / math.sqrt(math.prod(kernel))
        a = rng.uniform(-bound, bound, (plan.rank, math.prod(kernel)))
        b = rng.standard_normal((layer.shape[0], plan.rank)) * plan.decay ** np.arange(plan.rank)
        scale = 1.0 if plan.alpha is None else plan.alpha / plan.rank
        norm = scale * _product_norm(a, b)
        # Modules differ, as gradients do.
        b *= plan.size * layer.norm * math.exp(0.2 * rng.standard_normal()) / norm
        factors = LowRank(a.astype(plan.dtype), b.astype(plan.dtype), scale)
        updates[target] = Update(factors, (kernel[0], kernel[1], kernel[2]) if kernel[1:] else None)
    return Adapter(updates)


def _product_norm(a: NDArray[Any], b: NDArray[Any]) -> float:
    return math.sqrt(float(np.vdot(b.T @ b, a @ a.T)))


def dotted(target: Target) -> str:
    """Component and module, as diffusers spells them."""
    return f"{target.component}.{target.module}"


def kohya_name(target: Target) -> str:
    """The name of a module in a kohya file of Stable Diffusion 1."""
    return _KOHYA[target.component] + target.module.replace(".", "_")


def spelled(
    adapter: Adapter, down: str, up: str, name: Callable[[Target], str] = dotted
) -> dict[str, Array]:
    """Tensors of a file, with the scale left out.

    Args:
        adapter: The updates.
        down: End of the name of ``A``.
        up: End of the name of ``B``.
        name: How a module is called.
    """
    tensors: dict[str, Array] = {}
    for target, update in adapter.items():
        bare = replace(update, factors=replace(update.factors, scale=1.0))
        tensors[name(target) + down], tensors[name(target) + up] = bare.pair()
    return tensors


def kohya_tensors(
    adapter: Adapter, name: Callable[[Target], str] = kohya_name, *, alpha: bool = True
) -> dict[str, Array]:
    """Tensors of a kohya file.

    Args:
        adapter: The updates.
        name: How a module is called.
        alpha: Whether the scale is stated.
    """
    tensors = spelled(adapter, ".lora_down.weight", ".lora_up.weight", name)
    if alpha:
        for target, update in adapter.items():
            value = update.factors.scale * update.rank
            tensors[f"{name(target)}.alpha"] = np.asarray(value, update.factors.A.dtype)
    return tensors


def loha_tensors(
    layers: Layers, plan: Plan | None = None, name: Callable[[Target], str] = kohya_name
) -> dict[str, Array]:
    """Tensors of a LoHa file: of each layer, the Hadamard product of two low-rank products.

    Args:
        layers: What is updated.
        plan: How.
        name: How a module is called.
    """
    plan = plan or Plan()
    tensors: dict[str, Array] = {}
    for target, layer in layers.items():
        rng = np.random.default_rng(derive_seed(plan.seed, str(target)))
        d_out, d_in = layer.shape[0], math.prod(layer.shape[1:])
        pairs = [
            (rng.standard_normal((d_out, plan.rank)), rng.standard_normal((plan.rank, d_in)))
            for _ in "12"
        ]
        size = float(np.linalg.norm((pairs[0][0] @ pairs[0][1]) * (pairs[1][0] @ pairs[1][1])))
        pairs[1][0][...] *= plan.size * layer.norm / size
        for number, (a, b) in zip("12", pairs, strict=True):
            tensors[f"{name(target)}.hada_w{number}_a"] = a.astype(plan.dtype)
            tensors[f"{name(target)}.hada_w{number}_b"] = b.astype(plan.dtype)
        tensors[f"{name(target)}.alpha"] = np.asarray(plan.rank, plan.dtype)
    return tensors


def lokr_tensors(
    layers: Layers, plan: Plan | None = None, name: Callable[[Target], str] = kohya_name
) -> dict[str, Array]:
    """Tensors of a LoKr file: of each layer, the Kronecker product of 4 x 4 and a low rank.

    Args:
        layers: What is updated; sides of their weights are multiples of 4.
        plan: How.
        name: How a module is called.
    """
    plan = plan or Plan()
    tensors: dict[str, Array] = {}
    for target, layer in layers.items():
        rng = np.random.default_rng(derive_seed(plan.seed, str(target)))
        d_out, d_in = layer.shape[0], math.prod(layer.shape[1:])
        small = rng.standard_normal((4, 4))
        a = rng.standard_normal((d_out // 4, plan.rank))
        b = rng.standard_normal((plan.rank, d_in // 4))
        small *= plan.size * layer.norm / (float(np.linalg.norm(small)) * _product_norm(b, a))
        ends = {"w1": small, "w2_a": a, "w2_b": b, "alpha": np.asarray(float(plan.rank))}
        for end, array in ends.items():
            key = end if end == "alpha" else f"lokr_{end}"
            tensors[f"{name(target)}.{key}"] = array.astype(plan.dtype)
    return tensors


def plain_config(adapter: Adapter, **changes: object) -> dict[str, object]:
    """A config as PEFT writes it.

    Args:
        adapter: The updates, of one rank and scale.
        changes: Settings that differ.
    """
    first = next(iter(adapter.values()))
    return {
        "alpha_pattern": {},
        "auto_mapping": None,
        "base_model_name_or_path": None,
        "bias": "none",
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": first.factors.scale * first.rank,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": first.rank,
        "rank_pattern": {},
        "revision": None,
        "target_modules": sorted({_ending(target.module) for target in adapter}),
        "task_type": None,
        "use_dora": False,
        "use_rslora": False,
        **changes,
    }


def _ending(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def peft_folder(
    folder: Path,
    adapter: Adapter,
    *,
    config: Mapping[str, object] | None = None,
    metadata: Mapping[str, str] | None = None,
    more: Mapping[str, Array] | None = None,
) -> Path:
    """Write a folder as PEFT does, which does not say what component it is for.

    Args:
        folder: Where.
        adapter: The updates, of one component, rank and scale.
        config: Settings that differ from the usual.
        metadata: Text for the header.
        more: Tensors that no plain adapter has.
    """
    tensors = spelled(
        adapter,
        ".lora_A.weight",
        ".lora_B.weight",
        lambda target: f"base_model.model.{target.module}",
    )
    save_tensors(folder / "adapter_model.safetensors", {**tensors, **(more or {})}, metadata)
    text = json.dumps(plain_config(adapter, **(config or {})), indent=2)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    return folder
