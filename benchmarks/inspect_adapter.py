"""How long ``loricate inspect`` takes for a kohya file of 150 MB, and ``loricate --help``.

    python benchmarks/inspect_adapter.py [--rank 128] [--repeats 7] [--json FILE]

The file updates every attention and feed-forward layer of the denoiser and the text encoder of
Stable Diffusion 1.5 (264 layers) in float16; at rank 128 it has 151 MB. Times are those of whole
processes, start-up included, after a warm-up that also brings the file into the page cache. Wall
time depends on what else the machine does; the load average and the processor time (of all
threads) tell how far to trust it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.adapters.names import canonical

LORICATE = Path(sys.executable).with_name("loricate")


UPDATED = {"unet": "attentions.", "text_encoder": "layers."}
"""What is in the names of the layers that trainers update by default, by component."""


def parts() -> dict[str, nn.Module]:
    """Denoiser and text encoder of Stable Diffusion 1.5, without memory for their weights."""
    text = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, sample_size=64)
        return {"unet": unet, "text_encoder": CLIPTextModel(text)}


def layers() -> Iterator[tuple[Target, tuple[int, ...]]]:
    """Target and shape of the weight of every layer that trainers update by default."""
    for component, model in parts().items():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d) and UPDATED[component] in name:
                yield Target(component, canonical(component, name)), tuple(layer.weight.shape)


def write_file(path: Path, rank: int) -> int:
    """Number of layers in a file of random factors."""
    rng = np.random.default_rng(0)
    updates = {}
    for target, (d_out, *rest) in layers():
        a = rng.standard_normal((rank, *rest), np.float32) * 0.03
        b = rng.standard_normal((d_out, rank, *(1 for _ in rest[1:])), np.float32) * 0.01
        updates[target] = Update.from_factors(a.astype(np.float16), b.astype(np.float16))
    save_adapter(Adapter(updates), path, form="kohya")
    return len(updates)


def _environment() -> dict[str, str]:
    """Ours, in which Python keeps what it compiled, as it does unless told otherwise."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def measure(arguments: Sequence[str], repeats: int) -> dict[str, float]:
    """Seconds of a command line, each time in a process of its own."""
    wall, processor = [], []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        with subprocess.Popen(
            [LORICATE, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        ) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        wall.append(time.perf_counter() - start)
        assert process.returncode == 0, arguments
        processor.append(usage.ru_utime + usage.ru_stime)
    return {
        "median_s": statistics.median(wall[1:]),
        "fastest_s": min(wall[1:]),
        "processor_s": statistics.median(processor[1:]),
    }


def show(found: Mapping[str, Mapping[str, float]]) -> None:
    """Times as a table."""
    print(f"{'loricate':<16}{'median s':>10}{'fastest s':>10}{'CPU s':>8}")
    for name, row in found.items():
        times = f"{row['median_s']:>10.2f}{row['fastest_s']:>10.2f}{row['processor_s']:>8.2f}"
        print(f"{name:<16}{times}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lora.safetensors"
        n_layers = write_file(file, options.rank)
        size = file.stat().st_size / 1e6
        lines = {
            "--help": ["--help"],
            "inspect --help": ["inspect", "--help"],
            "inspect": ["inspect", str(file)],
            "inspect --json": ["inspect", str(file), "--json"],
        }
        found = {name: measure(line, options.repeats) for name, line in lines.items()}
    load = os.getloadavg()[0]
    print(f"{n_layers} layers, {size:.0f} MB, {os.cpu_count()} cores, load average {load:.1f}")
    show(found)
    if options.json:
        record = {"layers": n_layers, "size_mb": size, "load_average": load, "commands": found}
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
