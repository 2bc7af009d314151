"""Extracting a LoRA from a full-size Stable Diffusion 1.5, against the full SVD of each change.

    python benchmarks/extract.py [--share 1.0] [--rank 16] [--threads N] [--json FILE]

Base and tuned model are written to a temporary folder, 3.9 GB each, in the shapes of the denoiser
and the text encoder. The change of each layer is 64 components that decay like 1/k, under white
noise of 0.3 times their norm. ``loricate extract`` runs as a process of its own, from files the
system no longer holds in memory; its peak memory is what the system reports. Then its error is
measured on every layer, and compared with the best possible one on 20 layers solved exactly, which
LyCORIS' own ``extract_linear`` takes as well, if it is installed. Where other work runs beside it,
its CPU seconds tell more than its seconds. Each decomposition is timed in seconds of the processor,
so run this with OMP_NUM_THREADS=1.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from loricate.adapters.files import open_adapter
from loricate.adapters.weights import Weights, open_model
from loricate.lowrank.rules import FixedRank
from loricate.lowrank.sketch import certified_svd

FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
COMPONENTS, NOISE, CHANGE = 64, 0.3, 0.05
SAMPLE = 20
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def shapes(share: float) -> dict[str, dict[str, tuple[int, ...]]]:
    """Shapes of both components, from their configurations; a part of the layers if asked for."""
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel(cross_attention_dim=768, sample_size=64),
            "text_encoder": CLIPTextModel(text),
        }
    step = round(1 / share)
    found = {}
    for name, model in models.items():
        state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        layers = [key for key, shape in state.items() if is_layer(key, shape)]
        kept = {*layers[::step], *(state.keys() - set(layers))}
        found[name] = {key: shape for key, shape in state.items() if key in kept}
    return found


def is_layer(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 4) and "embedding.weight" not in name


def write_models(folder: Path, share: float) -> None:
    """Base and tuned model, one tensor in memory at a time."""
    rng = np.random.default_rng(0)
    for component, tensors in shapes(share).items():
        files = []
        for side in ("base", "tuned"):
            path = folder / side / FILES[component]
            path.parent.mkdir(parents=True)
            files.append(path.open("wb"))
            files[-1].write(header(tensors))
        for name, shape in tensors.items():
            weight = 0.02 * rng.standard_normal(shape, dtype=np.float32)
            files[0].write(weight.tobytes())
            if is_layer(name, shape):
                weight += change(rng, (shape[0], weight[0].size)).reshape(shape)
            files[1].write(weight.tobytes())
        for file in files:
            forget(file)


def header(tensors: dict[str, tuple[int, ...]]) -> bytes:
    entries, start = {}, 0
    for name, shape in tensors.items():
        end = start + 4 * int(np.prod(shape))
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def change(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """A matrix of norm 0.05 or so: decaying components under noise."""
    k = min(COMPONENTS, *shape)
    left, right = (rng.standard_normal((n, k), dtype=np.float32) / n**0.5 for n in shape)
    decay = (1.0 / np.arange(1, k + 1)).astype(np.float32)
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise *= NOISE * np.linalg.norm(decay) / np.linalg.norm(noise)
    return CHANGE * ((left * decay) @ right.T + noise)


def forget(file: Any) -> None:
    """Close a file and take it out of the cache of the system."""
    file.flush()
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    file.close()


def run(folder: Path, rank: int, threads: int | None) -> tuple[dict[str, Any], dict[str, float]]:
    """Report of ``loricate extract``, and what the process took."""
    command = [sys.executable, "-m", "loricate", "extract", "--json", "--to", "diffusers"]
    command += ["--base", str(folder / "base"), "--tuned", str(folder / "tuned")]
    command += ["--rule", f"rank:{rank}", "--out", str(folder / "lora.safetensors")]
    environment = {k: v for k, v in os.environ.items() if k not in THREADS}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    report = folder / "report.json"
    with report.open("wb") as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        sys.exit(f"loricate extract left with status {status}")
    taken = {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_gib": usage.ru_maxrss / 2**20,
    }
    return json.loads(report.read_bytes()), taken


def differences(
    base: dict[str, Weights], tuned: dict[str, Weights], layers: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], np.ndarray[Any, Any]]]:
    for layer in layers:
        part, name = layer["component"], f"{layer['module']}.weight"
        names = (name, name.removeprefix("text_model."))
        name = next(each for each in names if each in base[part])
        rows = layer["shape"][0]
        yield layer, (tuned[part][name] - base[part][name]).reshape(rows, -1)


def measure(folder: Path, report: dict[str, Any], rank: int) -> dict[str, Any]:
    """Errors of all layers against their certificates, and of a sample against the best."""
    updates = open_adapter(folder / "lora.safetensors").adapter
    base, tuned = open_model(folder / "base"), open_model(folder / "tuned")
    layers = report["layers"]
    # A layer of no more rows than the rank leaves no error to compare.
    eligible = [k for k, layer in enumerate(layers) if layer["shape"][0] > rank]
    drawn = np.random.default_rng(1).permutation(eligible)[:SAMPLE]
    sample = {(layers[k]["component"], layers[k]["module"]) for k in drawn}
    valid, bounded, ratios, full_s, ours_s, peer_s = [], [], [], [], [], []
    for layer, matrix in differences(base, tuned, layers):
        factors = updates[layer["component"], layer["module"]].factors
        rest = matrix.astype(np.float64) - factors.scale * (
            factors.B.astype(np.float64) @ factors.A
        )
        error = float(np.linalg.norm(rest))
        valid.append(error <= layer["relative_error"] * layer["norm"])
        if (layer["component"], layer["module"]) in sample:
            s, seconds = timed(lambda m=matrix: np.linalg.svd(m, full_matrices=False)[1])
            full_s.append(seconds)
            ours_s.append(timed(lambda m=matrix: certified_svd(m, FixedRank(rank)))[1])
            peer_s += lycoris_seconds(matrix, rank)
            best = float(np.linalg.norm(s[rank:].astype(np.float64)))
            ratios.append(error / best)
            bounded.append((layer["relative_error"] - layer["excess"]) * layer["norm"] <= best)
    speedups = [full / ours for full, ours in zip(full_s, ours_s, strict=True)]
    over_lycoris = [peer / ours for peer, ours in zip(peer_s, ours_s, strict=False)]
    lycoris = {
        "lycoris_over_ours_in_total": sum(peer_s) / sum(ours_s),
        "lycoris_over_ours_median": statistics.median(over_lycoris or [0.0]),
        "lycoris_over_ours_least": min(over_lycoris, default=0.0),
    }
    return {
        "layers": len(layers),
        "error_within_certificate": sum(valid),
        "decomposed_exactly": sum(layer["exact"] for layer in layers),
        "largest_certified_excess": max(layer["excess"] for layer in layers),
        "sample": len(ratios),
        "optimum_within_certificate": sum(bounded),
        "error_over_optimal_worst": max(ratios),
        "error_over_optimal_median": statistics.median(ratios),
        "full_svd_over_ours_in_total": sum(full_s) / sum(ours_s),
        "full_svd_over_ours_median": statistics.median(speedups),
        "full_svd_over_ours_least": min(speedups),
        **(lycoris if peer_s else {}),
    }


def lycoris_seconds(matrix: np.ndarray[Any, Any], rank: int) -> list[float]:
    """Seconds of LyCORIS' own extraction of the same change, if it is installed."""
    if importlib.util.find_spec("lycoris") is None:
        return []
    from lycoris.utils import extract_linear

    change = torch.asarray(matrix)
    return [timed(lambda: extract_linear(change, mode="fixed", mode_param=rank))[1]]


def timed(work: Any) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="part of the layers to write")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, help="of the linear algebra, as the user may set")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_models(folder, options.share)
        size = sum(file.stat().st_size for file in folder.glob("*/*/*"))
        report, taken = run(folder, options.rank, options.threads)
        print(f"extracted in {taken['seconds']:.1f} s", flush=True)
        found = {
            "read_gb": size / 1e9,
            **taken,
            "retained_energy": report["retained_energy"],
            "threads": options.threads or "unset",
            "load_average": os.getloadavg()[0],
            **measure(folder, report, options.rank),
        }
    for key, value in found.items():
        print(f"{key:<28}{value:>12.4f}" if isinstance(value, float) else f"{key:<28}{value:>12}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
