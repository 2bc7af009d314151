"""Signatures go both ways between ``loricate`` and the command and package ``model_signing``."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("model_signing")

import model_signing
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loricate.adapters.tensors import save_tensors
from loricate.integrity.signing import SIGNATURE
from loricate.recipes.manifest import manifest
from loricate.recipes.sign import sign
from loricate.recipes.verify import verify


@pytest.fixture
def keys(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    private.write_bytes(key.private_bytes(pem, traditional, serialization.NoEncryption()))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(pem, spki))
    return private, public


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "model"
    save_tensors(root / "vae" / "model.safetensors", {"w": np.arange(6.0)})
    (root / "odd name é").write_text("words")
    (root / ".gitattributes").write_text("left out by both")
    return root


def theirs(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Their command line."""
    command = [sys.executable, "-m", "model_signing", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_their_command_verifies_what_we_signed(folder, keys):
    private, public = keys
    sign(folder, private)
    check = ("verify", "key", folder, "--signature", folder / SIGNATURE, "--public_key", public)
    done = theirs(*check)
    assert (done.returncode, "succeeded" in done.stdout) == (0, True), done.stderr
    (folder / "odd name é").write_text("other")
    assert theirs(*check).returncode == 1


def test_we_verify_what_their_command_signed(folder, keys):
    private, public = keys
    manifest(folder)
    where = ("--signature", folder / SIGNATURE, "--private_key", private)
    done = theirs("sign", "key", folder, *where)
    assert done.returncode == 0, done.stderr
    assert verify(folder, key=public).outcome == "pass"
    (folder / "odd name é").write_text("other")
    failed = {claim.entry for claim in verify(folder, key=public).claims if not claim.passed}
    assert "odd name é" in failed


def test_a_folder_of_theirs_needs_no_manifest_of_ours(folder, keys):
    private, public = keys
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=private)
    signer.sign(folder, folder / SIGNATURE)
    found = verify(folder, key=public)
    assert found.outcome == "pass"
    assert {claim.name: claim.passed for claim in found.claims}["files"] is None


@pytest.mark.parametrize("kind", ["shards", "blake3", "blake2"])
def test_other_ways_to_hash_are_theirs_to_check(folder, keys, kind):
    private, public = keys
    hashing = model_signing.hashing.Config()
    if kind == "shards":
        hashing.use_shard_serialization(shard_size=16)
    else:
        hashing.use_file_serialization(hashing_algorithm=kind)
    signer = model_signing.signing.Config().use_elliptic_key_signer(private_key=private)
    signer.set_hashing_config(hashing.set_ignored_paths(paths=[SIGNATURE]))
    signer.sign(folder, folder / SIGNATURE)
    assert verify(folder, key=public).outcome == "pass"
    (folder / "odd name é").write_text("other")
    assert verify(folder, key=public).outcome == "fail"


def test_links_of_a_hub_cache_are_signed_as_their_content(folder, keys, tmp_path):
    private, public = keys
    snapshot = tmp_path / "snapshot"
    for source in (each for each in folder.rglob("*") if each.is_file()):
        link = snapshot / source.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(source, link.parent))
    sign(snapshot, private)
    assert verify(snapshot, key=public).outcome == "pass"
    checker = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    followed = model_signing.hashing.Config().set_allow_symlinks(True)
    checker.set_hashing_config(followed).verify(snapshot, snapshot / SIGNATURE)
