"""Resizing and combining LoRAs: small cores of the factors against what peers run.

    python benchmarks/resize.py [--rank 16] [--repeats 3] [--peft] [--economy] [--json FILE]

All layers of the denoiser of Stable Diffusion 1.5, with rank-r factors in float32: in numpy for us,
as ``loricate resize`` and ``combine`` read them, and in torch for the peers. The median layer
counts each shape as often as it occurs. Resizing halves the rank, against ``torch.linalg.svd`` of
the product, as kohya and ComfyUI call it; ``--economy`` spares it the full matrices. Combining sums
two LoRAs with weights 1 and 0.5 at rank r, against the same of the dense sum and against PEFT's
``add_weighted_adapter`` with its own defaults. All take turns, and the fastest of their runs count:
``--repeats`` of each peer, ten times as many of ours. On one thread the times are those of the
processor, whatever else runs. Differences are between the resulting updates, as a share of their
norm. On one thread the peers take many minutes; ``--least`` and ``--most`` choose among the shapes
by the number of entries.
"""

import argparse
import json
import math
import statistics
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from loricate.lowrank.factors import LowRank
from loricate.lowrank.merge import concat
from loricate.lowrank.rules import FixedRank
from loricate.lowrank.svd import recompress

Result = TypeVar("Result")
Work: TypeAlias = Callable[[], tuple[float, LowRank | Tensor]]
GAINS = [1.0, 0.5]


def layer_shapes() -> Counter[tuple[int, int]]:
    """How many layers of the denoiser have a matrix of each shape, kernels flattened."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
    weights = [weight for weight in unet.state_dict().values() if weight.ndim in (2, 4)]
    return Counter((weight.shape[0], weight[0].numel()) for weight in weights)


def random_updates(shape: tuple[int, int], rank: int) -> list[LowRank]:
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((2, n, rank)).astype(np.float32) for n in shape)
    # A decay, as trained updates have it: among equal singular values no cut is unique.
    left *= 0.8 ** np.arange(rank, dtype=np.float32)
    return [LowRank(a.T.copy(), b) for b, a in zip(left, right, strict=True)]


def measure_resize(update: LowRank, options: argparse.Namespace) -> dict[str, float]:
    """Seconds of both sides, their ratio, and how far the results are apart."""
    rank, (a, b) = options.rank // 2, (torch.asarray(each) for each in (update.A, update.B))
    works: dict[str, Work] = {
        "ours": lambda: clocked(lambda: recompress(update, FixedRank(rank))),
        "svd": lambda: clocked(lambda: best(b @ a, rank, options)),
    }
    return compare(works, options.repeats)


def measure_combine(updates: Sequence[LowRank], options: argparse.Namespace) -> dict[str, float]:
    """The same for a weighted sum of two updates."""
    rule = FixedRank(options.rank)
    dense = torch.asarray(concat(updates, GAINS).dense())
    works: dict[str, Work] = {
        "ours": lambda: clocked(lambda: recompress(concat(updates, GAINS), rule)),
        "svd": lambda: clocked(lambda: best(dense, options.rank, options)),
    }
    if options.peft:
        works["peft"] = lambda: peft_sum(updates, options.rank)
    return compare(works, options.repeats)


def best(matrix: Tensor, rank: int, options: argparse.Namespace) -> Tensor:
    u, s, vh = torch.linalg.svd(matrix, full_matrices=not options.economy)
    kept = min(rank, len(s))
    return (u[:, :kept] * s[:kept]) @ vh[:kept]


def peft_sum(updates: Sequence[LowRank], rank: int) -> tuple[float, Tensor]:
    """Seconds of one call of PEFT, and the update it made."""
    d_out, d_in = updates[0].shape
    layer = torch.nn.Linear(d_in, d_out, bias=False)
    config = LoraConfig(r=updates[0].rank, lora_alpha=updates[0].rank, target_modules=["layer"])
    model = get_peft_model(torch.nn.Sequential(OrderedDict(layer=layer)), config, "first")
    assert isinstance(model, PeftModel)
    model.add_adapter("second", config)
    lora = model.base_model.model.layer
    with torch.no_grad():
        for name, update in zip(("first", "second"), updates, strict=True):
            lora.lora_A[name].weight.copy_(torch.asarray(update.A))
            lora.lora_B[name].weight.copy_(torch.asarray(update.B))
    start = now()
    model.add_weighted_adapter(
        ["first", "second"], GAINS, "sum", combination_type="svd", svd_rank=rank
    )
    seconds = now() - start
    return seconds, lora.get_delta_weight("sum").detach()


def compare(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Fewest seconds of each, and ratios and differences of the others to ours."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    results: dict[str, Tensor] = {}
    for _ in range(repeats):
        for name, work in works.items():
            # After a peer has had the caches, the first of ours warms up.
            for _ in range(11 if name == "ours" else 1):
                taken, result = work()
                seconds[name].append(taken)
            results[name] = result if isinstance(result, Tensor) else torch.asarray(result.dense())
    fastest = {name: min(each) for name, each in seconds.items()}
    row = {f"{name}_s": value for name, value in fastest.items()}
    ours = results.pop("ours")
    for name, result in results.items():
        row[f"{name}_ratio"] = fastest[name] / fastest["ours"]
        row[f"{name}_difference"] = float((ours - result).norm() / result.norm())
    return row


def clocked(work: Callable[[], Result]) -> tuple[float, Result]:
    start = now()
    result = work()
    return now() - start, result


def now() -> float:
    # The seconds of one thread do not grow with what else the machine does.
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def show(name: str, row: dict[str, float]) -> str:
    cells = [f"{name:<24}{1e3 * row['ours_s']:>9.2f}"]
    for peer in ("svd", "peft"):
        if f"{peer}_s" in row:
            cells.append(f"{1e3 * row[f'{peer}_s']:>10.1f}{row[f'{peer}_ratio']:>8.0f}")
            cells.append(f"{row[f'{peer}_difference']:>10.1e}")
    return "".join(cells)


def summary(
    tables: dict[str, dict[str, dict[str, float]]], counts: dict[str, int]
) -> dict[str, float]:
    found = {}
    for kind, rows in tables.items():
        for key in next(iter(rows.values())):
            if key.endswith("_ratio"):
                counted = [rows[name][key] for name in rows for _ in range(counts[name])]
                found[f"{kind} {key}"] = statistics.median(counted)
            if key.endswith("_difference"):
                found[f"{kind} {key}"] = max(row[key] for row in rows.values())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peft", action="store_true", help="measure PEFT too")
    parser.add_argument("--economy", action="store_true", help="let the SVDs be thin")
    parser.add_argument("--least", type=int, default=0, help="leave smaller shapes out")
    parser.add_argument("--most", type=int, default=10**9, help="leave larger shapes out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tables: dict[str, dict[str, dict[str, float]]] = {"resize": {}, "combine": {}}
    counts = {}
    peers = ("SVD", "PEFT") if options.peft else ("SVD",)
    heads = "".join(f"{f'{peer} ms':>10}{'ratio':>8}{'differs':>10}" for peer in peers)
    print(f"{'':<24}{'ours ms':>9}{heads}")
    for shape, count in sorted(layer_shapes().items(), key=lambda each: math.prod(each[0])):
        # PEFT fails where the rank exceeds the shape; that leaves out the last convolution.
        if min(shape) < options.rank or not options.least <= math.prod(shape) <= options.most:
            continue
        name = f"{shape[0]} x {shape[1]}"
        counts[name] = count
        updates = random_updates(shape, options.rank)
        tables["resize"][name] = measure_resize(updates[0], options)
        tables["combine"][name] = measure_combine(updates, options)
        print(f"{name}, {count} layers")
        for kind, rows in tables.items():
            print(show(f"  {kind}", rows[name]), flush=True)
    report(summary(tables, counts), tables, options)


def report(
    found: dict[str, float],
    tables: dict[str, dict[str, dict[str, float]]],
    options: argparse.Namespace,
) -> None:
    threads = torch.get_num_threads()
    print(f"ratio at the median layer and largest difference, {threads} threads:")
    for key, value in found.items():
        print(f"  {key:<28}{value:>10.3g}")
    if options.json:
        record = {"threads": threads, "summary": found, **tables}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
