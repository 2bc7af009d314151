"""What is wrong with files, folders and keys is named by the right exit code, and costs nothing."""

import importlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("model_signing")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from loricate.adapters.tensors import save_tensors
from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.integrity.manifest import MANIFEST
from loricate.integrity.signing import SIGNATURE

importlib.import_module("rich.style")

PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
PKCS8 = serialization.PrivateFormat.PKCS8
SPKI = serialization.PublicFormat.SubjectPublicKeyInfo
NO_LOCK = serialization.NoEncryption()
MODULE = "unet.mid_block.attentions.0.proj_in"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Keys of every kind in a folder: ``key``, and others that are none for signatures."""
    folder = tmp_path_factory.mktemp("keys")
    curves = {"key": ec.SECP256R1(), "bitcoin": ec.SECP256K1()}
    pairs = {name: ec.generate_private_key(curve) for name, curve in curves.items()}
    pairs |= {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }
    for name, key in pairs.items():
        (folder / f"{name}.pem").write_bytes(key.private_bytes(PEM, PKCS8, NO_LOCK))
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(PEM, SPKI))
    lock = serialization.BestAvailableEncryption(b"sesame")
    (folder / "locked.pem").write_bytes(pairs["key"].private_bytes(PEM, PKCS8, lock))
    (folder / "der.pem").write_bytes(pairs["key"].private_bytes(DER, PKCS8, NO_LOCK))
    (folder / "der.pub").write_bytes(pairs["key"].public_key().public_bytes(DER, SPKI))
    (folder / "empty.pem").touch()
    (folder / "bytes.pem").write_bytes(bytes(range(256)))
    armor = "-----{} PRIVATE KEY-----\n"
    (folder / "garbage.pem").write_text(armor.format("BEGIN") + "AAAA\n" + armor.format("END"))
    (folder / "folder.pem").mkdir()
    return folder


@pytest.fixture
def model(tmp_path):
    """A folder with one adapter."""
    ones = np.ones((4, 4), np.float32)
    tensors = {f"{MODULE}.lora_{side}.weight": ones / 9 for side in "AB"}
    save_tensors(tmp_path / "model" / "lora.safetensors", tensors)
    return tmp_path / "model"


def state(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


BAD = ["rsa", "ed", "bitcoin", "der", "empty", "bytes", "garbage", "other half", "locked"]


@pytest.mark.parametrize("kind", [*BAD, "folder", "nothing"])
@pytest.mark.parametrize("command", ["sign", "verify"])
def test_a_key_of_another_kind_is_named(model, keys, command, kind, capsys):
    assert run(["sign", str(model), "--key", str(keys / "key.pem")]) == ExitCode.PASS
    before, (own, other) = state(model), ("pem", "pub") if command == "sign" else ("pub", "pem")
    has_own = (keys / f"{kind}.{own}").exists()
    name = f"key.{other}" if kind == "other half" else f"{kind}.{own if has_own else 'pem'}"
    capsys.readouterr()
    expected = ExitCode.COULD_NOT_RUN if kind in ("folder", "nothing") else ExitCode.USAGE
    assert run([command, str(model), "--key", str(keys / name)]) == expected
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert name in printed.err or "password" in printed.err
    assert state(model) == before


def test_a_hub_cache_is_read_through_its_links(model, keys, tmp_path, capsys):
    snapshot, blob = tmp_path / "hub" / "snapshots" / "1f", tmp_path / "hub" / "blobs" / ("b" * 64)
    snapshot.mkdir(parents=True)
    blob.parent.mkdir()
    shutil.copy(model / "lora.safetensors", blob)
    (snapshot / "lora.safetensors").symlink_to(os.path.relpath(blob, snapshot))
    key, public = (str(keys / f"key.{end}") for end in ("pem", "pub"))
    assert run(["scan", str(tmp_path / "hub")]) == ExitCode.PASS
    assert run(["manifest", str(snapshot)]) == ExitCode.PASS
    assert run(["sign", str(snapshot), "--key", key]) == ExitCode.PASS
    assert run(["verify", str(snapshot), "--key", public]) == ExitCode.PASS
    copied = shutil.copytree(snapshot, tmp_path / "copied")
    assert run(["verify", str(copied), "--key", public]) == ExitCode.PASS
    assert blob.read_bytes() == (model / "lora.safetensors").read_bytes()
    (snapshot / "more.safetensors").symlink_to("../../blobs/gone")
    before = state(snapshot)
    assert run(["manifest", str(snapshot)]) == ExitCode.COULD_NOT_RUN
    assert run(["verify", str(snapshot), "--key", public]) == ExitCode.NEGATIVE
    assert capsys.readouterr().err.count("a link that leads nowhere") == 2
    assert state(snapshot) == before


def test_an_empty_file_is_no_model(model, keys, capsys):
    (model / "lora.safetensors").write_bytes(b"")
    assert run(["scan", str(model)]) == ExitCode.INCONCLUSIVE
    assert "an empty file" in capsys.readouterr().out
    key = str(keys / "key.pem")
    for arguments in (["manifest", str(model)], ["sign", str(model), "--key", key]):
        assert run(arguments) == ExitCode.COULD_NOT_RUN
        assert "lora.safetensors" in capsys.readouterr().err
    assert [path.name for path in model.iterdir()] == ["lora.safetensors"]
    base = str(model / "lora.safetensors")
    for command in ("scan", "verify"):
        assert run([command, str(model), "--base", base]) == ExitCode.COULD_NOT_RUN


@pytest.mark.parametrize("name", [SIGNATURE, MANIFEST])
def test_an_empty_statement_is_no_proof(model, keys, name, capsys):
    assert run(["sign", str(model), "--key", str(keys / "key.pem")]) == ExitCode.PASS
    (model / name).write_bytes(b"")
    capsys.readouterr()
    assert run(["verify", str(model), "--key", str(keys / "key.pub")]) == ExitCode.NEGATIVE
    assert name in capsys.readouterr().out


def refusing(monkeypatch, closed):
    """What a user without rights meets; the one who tests may be allowed everything."""
    listed, scanned = Path.iterdir, os.scandir

    def refuse(path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", lambda path: refuse(path) or listed(path))
    monkeypatch.setattr(os, "scandir", lambda path=".": refuse(path) or scanned(path))


def test_a_folder_without_permission_is_no_pass(model, keys, monkeypatch, capsys):
    closed = model / "closed"
    closed.mkdir()
    assert run(["scan", str(model)]) == ExitCode.PASS
    before = state(model)
    refusing(monkeypatch, closed)
    capsys.readouterr()
    assert run(["scan", str(model)]) == ExitCode.INCONCLUSIVE
    assert "Permission denied" in capsys.readouterr().out
    key, public = (str(keys / f"key.{end}") for end in ("pem", "pub"))
    for arguments in (["manifest"], ["sign", "--key", key], ["verify", "--key", public]):
        assert run([*arguments, str(model)]) == ExitCode.COULD_NOT_RUN
        assert "Permission denied" in capsys.readouterr().err
    assert state(model) == before


@pytest.mark.parametrize("command", ["manifest", "sign"])
def test_a_folder_that_is_only_read_stays_as_it_is(model, keys, command, monkeypatch, capsys):
    assert run(["sign", str(model), "--key", str(keys / "key.pem")]) == ExitCode.PASS
    before, opened = state(model), Path.open
    capsys.readouterr()

    def refuse(path, mode="r", *rest, **options):
        if "w" in mode and path.parent == model:
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr(Path, "open", refuse)
    key = ["--key", str(keys / "key.pem")] if command == "sign" else []
    assert run([command, str(model), *key]) == ExitCode.COULD_NOT_RUN
    assert "Read-only file system" in capsys.readouterr().err
    assert state(model) == before
