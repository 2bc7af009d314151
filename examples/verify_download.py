"""Look at a downloaded model before it is loaded: who signed it, and is it what it claims to be?

    python examples/verify_download.py DIR --key publisher.pub [--base MODEL]

Without arguments, a small adapter is published, tampered with on its way, and told.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import IntegrityError
from loricate.recipes.sign import sign
from loricate.recipes.verify import verify


def check(folder: Path, key: Path, base: Path | None = None) -> bool:
    """Print every claim; whether it is safe to go on."""
    found = verify(folder, key=key, base=base)
    for claim in found.claims:
        status = {True: "holds", False: "FAILS", None: "open"}[claim.passed]
        print(f"  {claim.name:10} {status:6} {claim.entry}: {claim.message}")
    try:
        found.require()
    except IntegrityError as error:
        print(f"  not loaded: {error}")
    return found.outcome == "pass"


def publish(folder: Path) -> Path:
    """An adapter, signed; returns the public key, which travels by another way."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    a, b = np.ones((2, 8), np.float32), np.ones((4, 2), np.float32)
    target = Target("unet", "mid_block.attentions.0.proj_in")
    save_adapter(Adapter({target: Update.from_factors(a, b, 0.1)}), folder, form="peft")
    key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
    private, public = folder.with_name("key.pem"), folder.with_name("key.pub")
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(pem, pkcs8, plain))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, spki))
    sign(folder, private)
    return public


def tamper(folder: Path) -> None:
    """One entry of one factor, by a thousand."""
    path = folder / "adapter_model.safetensors"
    file = TensorFile(path)
    tensors = {name: np.array(each) for name, each in file.items()}
    next(iter(tensors.values()))[0, 0] *= 1000
    save_tensors(path, tensors, file.metadata)


def demonstrate() -> None:
    with tempfile.TemporaryDirectory() as place:
        original = Path(place) / "published"
        key = publish(original)
        download = Path(shutil.copytree(original, Path(place) / "download"))
        print("as it was published:")
        assert check(download, key)
        tamper(download)
        print("with one number changed on its way:")
        assert not check(download, key)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--key", type=Path, help="public key of the publisher")
    parser.add_argument("--base", type=Path, help="model that was hardened")
    options = parser.parse_args(arguments)
    if options.folder is None:
        demonstrate()
    elif options.key is None:
        parser.error("--key is needed: a signature is worth what the key is worth that you trust")
    else:
        raise SystemExit(not check(options.folder, options.key, options.base))


if __name__ == "__main__":
    main()
