"""Resizing a LoRA: QR of its factors against the full SVD of its product, which peers run.

    python benchmarks/resize.py [--rank 16] [--repeats 3] [--json FILE]

The weights of the Stable Diffusion 1.5 denoiser that keep their width, and its feed-forwards, with
rank-r factors in float32; the median weight counts each shape as often as it occurs.
Both sides get one warm-up; the ratio is of medians. On one thread the product side takes minutes.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from loricate.basics.arrays import to_numpy
from loricate.lowrank.factors import LowRank
from loricate.lowrank.rules import FixedRank
from loricate.lowrank.svd import recompress

# (d_out, d_in), kernels flattened, and how many weights of the denoiser have this shape.
SHAPES = {
    "attention 320": (320, 320, 40),
    "attention 640": (640, 640, 40),
    "attention 1280": (1280, 1280, 48),
    "cross-attention 320": (320, 768, 10),
    "cross-attention 640": (640, 768, 10),
    "cross-attention 1280": (1280, 768, 12),
    "feed-forward in 320": (2560, 320, 5),
    "feed-forward in 640": (5120, 640, 5),
    "feed-forward in 1280": (10240, 1280, 6),
    "feed-forward out 320": (320, 1280, 5),
    "feed-forward out 640": (640, 2560, 5),
    "feed-forward out 1280": (1280, 5120, 6),
    "convolution 320": (320, 2880, 8),
    "convolution 640": (640, 5760, 8),
    "convolution 1280": (1280, 11520, 20),
}


def measure(shape: tuple[int, int], rank: int, repeats: int) -> dict[str, float]:
    """Median seconds of both ways, their ratio, and how far their singular values differ."""
    rng = np.random.default_rng(0)
    a = torch.asarray(rng.standard_normal((rank, shape[1])), dtype=torch.float32)
    b = torch.asarray(rng.standard_normal((shape[0], rank)), dtype=torch.float32)
    update, rule = LowRank(a, b), FixedRank(rank // 2)
    ours, small = timed(lambda: recompress(update, rule), 10 * repeats)
    theirs, svd = timed(lambda: torch.linalg.svd(b @ a, full_matrices=False), repeats)
    s, reference = to_numpy(small.singular_values()), to_numpy(svd[1])[: rank // 2]
    difference = float(np.max(np.abs(s - reference)) / reference[0])
    return {"ours_s": ours, "peer_s": theirs, "ratio": theirs / ours, "difference": difference}


def timed(work: Callable[[], object], repeats: int) -> tuple[float, object]:
    result, seconds = work(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="measure shapes whose name contains this")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = {}
    print(f"{'weight':<24}{'shape':>14}{'ours ms':>10}{'SVD ms':>10}{'ratio':>8}  difference")
    for name, (d_out, d_in, _) in SHAPES.items():
        if options.only not in name:
            continue
        row = rows[name] = measure((d_out, d_in), options.rank, options.repeats)
        times = f"{1e3 * row['ours_s']:>10.2f}{1e3 * row['peer_s']:>10.1f}{row['ratio']:>8.0f}"
        print(f"{name:<24}{f'{d_out} x {d_in}':>14}{times}  {row['difference']:.1e}")
    ratios = [rows[name]["ratio"] for name in rows for _ in range(SHAPES[name][2])]
    median = statistics.median(ratios)
    print(f"median weight: {median:.0f} times as fast, {torch.get_num_threads()} threads")
    if options.json:
        options.json.write_text(json.dumps({"median_ratio": median, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
