"""How long ``loricate scan`` takes for a kohya file of 150 MB, without and with its base.

    python benchmarks/scan.py [--rank 128] [--repeats 5] [--json FILE]

The file is that of ``inspect_adapter.py``. The base is a folder with denoiser and text encoder of
Stable Diffusion 1.5 (2 GB) in float16, of random weights as large as at the start of training.
Times are those of whole processes, start-up included, with all files in the page cache. Wall time
depends on what else the machine does; the load average before the first process and the processor
time (of all threads) tell how far to trust it.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import torch
from inspect_adapter import measure, parts, show, write_file
from safetensors.torch import save_file

STEMS = {"unet": "diffusion_pytorch_model", "text_encoder": "model"}


def write_base(folder: Path) -> float:
    """Megabytes of a base of random weights."""
    generator = torch.Generator().manual_seed(0)
    size = 0
    for component, model in parts().items():
        weights = {
            key: _entries(tuple(weight.shape), generator)
            for key, weight in model.named_parameters()
        }
        path = folder / component / f"{STEMS[component]}.fp16.safetensors"
        path.parent.mkdir(parents=True)
        save_file(weights, path)
        size += path.stat().st_size
    return size / 1e6


def _entries(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    fan_in = max(1, noise[0].numel())
    return (noise / (3 * fan_in) ** 0.5).half()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        file, base = Path(name) / "lora.safetensors", Path(name) / "base"
        n_layers, base_mb = write_file(file, options.rank), write_base(base)
        size = file.stat().st_size / 1e6
        load = os.getloadavg()[0]
        lines = {
            "scan --help": ["scan", "--help"],
            "scan": ["scan", str(file)],
            "scan --base": ["scan", str(file), "--base", str(base)],
        }
        found = {line: measure(words, options.repeats) for line, words in lines.items()}
    print(
        f"{n_layers} layers, {size:.0f} MB, base of {base_mb:.0f} MB, {os.cpu_count()} cores, "
        f"load average {load:.1f}"
    )
    show(found)
    if options.json:
        record = {
            "layers": n_layers,
            "size_mb": size,
            "base_mb": base_mb,
            "load_average": load,
            "commands": found,
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
