"""Sign, mutate, verify: whatever is changed in a signed folder, verifying fails and names it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("model_signing")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import IntegrityError
from loricate.integrity.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    TensorEntry,
    read_manifest,
    write_manifest,
)
from loricate.integrity.signing import SIGNATURE
from loricate.recipes.manifest import manifest
from loricate.recipes.sign import sign
from loricate.recipes.verify import verify

WEIGHTS = "unet/w.safetensors"
TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.ones((4, 1), np.float16),
    "c": np.arange(4, dtype=np.int32),
}


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A signed folder, and the public key."""
    root = tmp_path_factory.mktemp("signed")
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (root / "key.pem").write_bytes(private)
    (root / "key.pub").write_bytes(public)
    save_tensors(root / "model" / WEIGHTS, TENSORS)
    (root / "model" / "README.md").write_text("a card")
    (root / "model" / "empty").write_bytes(b"")
    sign(root / "model", root / "key.pem")
    return root / "model", root / "key.pub"


def copy_of(signed: tuple[Path, Path]) -> Path:
    copy = signed[0].parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(signed[0], copy))


def entries(folder: Path, key: Path) -> set[str]:
    """What verifying finds wrong; a failed one has to raise, with those entries."""
    found = verify(folder, key=key)
    assert found.outcome == "fail"
    with pytest.raises(IntegrityError) as caught:
        found.require()
    return set(caught.value.entries)


def test_a_folder_moved_elsewhere_still_verifies(signed):
    copy = copy_of(signed)
    moved = Path(shutil.move(copy, copy.with_name("another name")))
    assert verify(moved, key=signed[1]).outcome == "pass"
    assert verify(moved).outcome == "inconclusive"
    shutil.rmtree(moved)


@settings(max_examples=100)
@given(data=st.data())
def test_any_bit_of_any_file(signed, data):
    copy = copy_of(signed)
    files = sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    name = path.relative_to(copy).as_posix()
    found = entries(copy, signed[1])
    assert any(entry == name or entry.startswith(f"{name}:") for entry in found)


@given(name=st.sampled_from(["README.md", "empty", WEIGHTS, MANIFEST]))
def test_a_file_that_is_gone(signed, name):
    copy = copy_of(signed)
    (copy / name).unlink()
    assert name in entries(copy, signed[1])


_NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=9
).filter(lambda name: name not in (".", "..", ".git", "unet", "empty", "README.md"))


@given(name=_NAMES, content=st.binary(max_size=3))
def test_a_file_that_is_new(signed, name, content):
    copy = copy_of(signed)
    if (copy / name).exists():
        return
    (copy / name).write_bytes(content)
    assert name in entries(copy, signed[1])


@given(name=_NAMES)
def test_a_file_that_has_another_name(signed, name):
    copy = copy_of(signed)
    if (copy / name).exists():
        return
    (copy / "README.md").rename(copy / name)
    assert {"README.md", name} <= entries(copy, signed[1])


def _renamed(tensors, name):
    return {f"{name}2" if key == name else key: each for key, each in tensors.items()}


CHANGES = {
    "dtype": lambda t, name: t | {name: t[name].view(f"u{t[name].dtype.itemsize}")},
    "shape": lambda t, name: t | {name: t[name][None]},
    "name": _renamed,
    "added": lambda t, name: t | {f"{name}2": np.zeros(1)},
    "gone": lambda t, name: {key: each for key, each in t.items() if key != name},
}


@given(name=st.sampled_from(sorted(TENSORS)), change=st.sampled_from(sorted(CHANGES)))
def test_a_tensor_of_another_dtype_shape_or_name(signed, name, change):
    copy = copy_of(signed)
    tensors = {key: np.array(each) for key, each in TensorFile(copy / WEIGHTS).items()}
    save_tensors(copy / WEIGHTS, CHANGES[change](tensors, name))
    expected = f"{WEIGHTS}:{name}2" if change == "added" else f"{WEIGHTS}:{name}"
    assert expected in entries(copy, signed[1])


@given(name=st.sampled_from(sorted(TENSORS)))
def test_a_manifest_made_to_fit_does_not_help(signed, name):
    copy = copy_of(signed)
    tensors = {key: np.array(each) for key, each in TensorFile(copy / WEIGHTS).items()}
    tensors[name].reshape(-1)[0] += 1
    save_tensors(copy / WEIGHTS, tensors)
    (copy / MANIFEST).unlink()
    manifest(copy)
    assert entries(copy, signed[1]) >= {MANIFEST, WEIGHTS}


def test_a_signature_that_is_gone(signed):
    copy = copy_of(signed)
    (copy / SIGNATURE).unlink()
    assert entries(copy, signed[1]) == {SIGNATURE}


_DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
_TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=6)
_TENSOR_ENTRIES = st.builds(
    TensorEntry,
    dtype=st.sampled_from(["float32", "bfloat16"]),
    shape=st.lists(st.integers(0, 9), max_size=4).map(tuple),
    sha256=_DIGESTS,
)
_FILE_ENTRIES = st.builds(
    FileEntry,
    sha256=_DIGESTS,
    size_bytes=st.integers(0, 2**60),
    tensors=st.none() | st.dictionaries(_TEXTS, _TENSOR_ENTRIES, max_size=3),
)
_MANIFESTS = st.builds(
    Manifest,
    files=st.dictionaries(_TEXTS, _FILE_ENTRIES, max_size=3),
    adapters=st.dictionaries(_TEXTS, _DIGESTS, max_size=2),
    bases=st.dictionaries(_TEXTS, st.dictionaries(_TEXTS, _DIGESTS, max_size=2), max_size=2),
    evidence=st.dictionaries(_TEXTS, _DIGESTS, max_size=2),
    loricate=_TEXTS,
)


@given(made=_MANIFESTS)
def test_reading_undoes_writing(signed, made):
    folder = signed[0].parent / "written"
    folder.mkdir(exist_ok=True)
    write_manifest(folder, made)
    assert read_manifest(folder) == made
