"""How long ``loricate verify`` takes, over ``sha256sum`` of the same bytes.

    python benchmarks/verify.py [--mib 1024] [--repeats 5]

A folder of random weights in one large file and several small ones is signed and verified.
Verifying hashes every file and, in the same pass, every tensor in it, checks the signature and
compares both with the manifest. All read from the page cache; each time is the least of the
repeats, taken in turns so that a busy machine slows all. The tool sha256sum of some distributions
does without the instructions that processors have for it, so hashlib is a second yardstick: one
thread, one digest a file.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loricate.adapters.tensors import save_tensors
from loricate.recipes.sign import sign
from loricate.recipes.verify import verify

AIM = 1.5


def write_model(folder: Path, mib: int) -> int:
    """Three quarters of the bytes in one file, as in a checkpoint; returns how many there are."""
    rng = np.random.default_rng(0)
    for name, share in {"unet": 0.75, "text_encoder": 0.2, "vae": 0.05}.items():
        side = max(1, round((share * mib * 2**20 / 4 / 40) ** 0.5))
        tensors = {f"layer.{i}.weight": rng.random((side, side), np.float32) for i in range(40)}
        save_tensors(folder / name / "model.safetensors", tensors)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write_keys(folder: Path) -> tuple[Path, Path]:
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    private, public = folder / "key.pem", folder / "key.pub"
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, pkcs8, plain))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, spki))
    return private, public


def hash_file(path: str) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folder = root / "model"
        size = write_model(folder, options.mib)
        private, public = write_keys(root)
        sign(folder, private)
        files = sorted(map(str, folder.rglob("*.safetensors")))
        command = [sys.executable, "-m", "loricate", "verify", str(folder), "--key", str(public)]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
        actions = {
            "sha256sum": lambda: subprocess.run(["sha256sum", *files], **quiet),
            "hashlib, files alone": lambda: [hash_file(file) for file in files],
            "verify() in Python": lambda: verify(folder, key=public).require(),
            "loricate verify": lambda: subprocess.run(command, **quiet),
        }
        assert verify(folder, key=public).outcome == "pass"
        rounds = [
            {name: seconds(each) for name, each in actions.items()} for _ in range(options.repeats)
        ]
    best = {name: min(each[name] for each in rounds) for name in actions}
    machine = f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{size / 2**20:.0f} MiB, {machine}, best of {options.repeats}")
    for name, spent in best.items():
        ratio = spent / best["sha256sum"]
        print(f"{name:20} {spent:6.2f} s {size / spent / 1e6:7.0f} MB/s   ratio {ratio:.2f}")
    met = best["loricate verify"] <= AIM * best["sha256sum"]
    print(f"aim: at most {AIM} times sha256sum: {'met' if met else 'NOT met'}")


if __name__ == "__main__":
    main()
