"""Signatures: whose they are, and every way in which a key or a bundle is no good."""

import base64
import hashlib
import json
import socket
import sys

import pytest

pytest.importorskip("model_signing")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from loricate.basics.errors import ConfigError, IntegrityError, PrerequisiteError
from loricate.integrity.signing import SIGNATURE, key_hint, sign_files, verify_files

FILES = {"a.txt": "11" * 32, "deep/b.safetensors": "22" * 32}


@pytest.fixture
def keys(tmp_path):
    """Makes pairs of PEM files: ``keys("name", key, password=None)``."""

    def made(name, key=None, password=None):
        key = key or ec.generate_private_key(ec.SECP256R1())
        lock = serialization.NoEncryption()
        if password is not None:
            lock = serialization.BestAvailableEncryption(password)
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        private.write_bytes(key.private_bytes(pem, pkcs8, lock))
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(pem, spki))
        return private, public

    return made


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    return path


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_what_was_signed_verifies_without_a_network(folder, keys, curve, monkeypatch):
    monkeypatch.setattr(socket, "socket", None)
    private, public = keys("ours", ec.generate_private_key(curve))
    assert sign_files(folder, FILES, private) == folder / SIGNATURE
    verify_files(folder, FILES, public)
    assert len(key_hint(folder)) == 64
    assert sorted(each.name for each in folder.iterdir()) == [SIGNATURE]


@pytest.mark.parametrize(
    ("files", "entries"),
    [
        (FILES | {"a.txt": "33" * 32}, ("a.txt",)),
        (FILES | {"new": "11" * 32}, ("new",)),
        ({"a.txt": "11" * 32}, ("deep/b.safetensors",)),
        ({"A.txt": "11" * 32, "deep/b.safetensors": "22" * 32}, ("A.txt", "a.txt")),
        ({}, ("a.txt", "deep/b.safetensors")),
    ],
)
def test_other_files_are_named(folder, keys, files, entries):
    private, public = keys("ours")
    sign_files(folder, FILES, private)
    with pytest.raises(IntegrityError, match="what was signed") as caught:
        verify_files(folder, files, public)
    assert caught.value.entries == entries


def test_a_key_inside_a_signature_is_never_trusted(folder, keys):
    (_, ours), (attacker, theirs) = keys("ours"), keys("theirs")
    sign_files(folder, FILES, attacker)
    verify_files(folder, FILES, theirs)
    with pytest.raises(IntegrityError, match="of another key"):
        verify_files(folder, FILES, ours)
    # Nor does the attacker gain by claiming to be us, or by claiming nothing.
    for hint in (_hint_of(ours), None):
        _edit(folder, lambda bundle, hint=hint: _material(bundle).update(hint=hint))
        with pytest.raises(IntegrityError, match="not of this key or was altered"):
            verify_files(folder, FILES, ours)


def test_a_statement_that_was_edited_is_not_signed(folder, keys):
    private, public = keys("ours")
    sign_files(folder, FILES, private)

    def forge(bundle):
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        payload["predicate"]["resources"][0]["digest"] = "33" * 32
        text = base64.b64encode(json.dumps(payload).encode()).decode()
        bundle["dsseEnvelope"]["payload"] = text

    _edit(folder, forge)
    with pytest.raises(IntegrityError, match="altered") as caught:
        verify_files(folder, FILES | {"a.txt": "33" * 32}, public)
    assert caught.value.entries == (SIGNATURE,)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"dsseEnvelope": {}}', None])
def test_what_is_no_bundle_is_no_signature(folder, keys, content):
    _, public = keys("ours")
    if content is not None:
        (folder / SIGNATURE).write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        verify_files(folder, FILES, public)
    assert caught.value.entries == (SIGNATURE,)
    assert key_hint(folder) is None


def test_keys_of_other_kinds_are_named(folder, keys, tmp_path):
    rsa_key = keys("rsa", rsa.generate_private_key(65537, 1024))
    edwards = keys("edwards", ed25519.Ed25519PrivateKey.generate())
    koblitz = keys("koblitz", ec.generate_private_key(ec.SECP256K1()))
    ours = keys("ours")
    (tmp_path / "text").write_text("no key at all")
    (tmp_path / "empty").write_bytes(b"")
    wrong = {
        "RSAPrivateKey": rsa_key[0],
        "Ed25519PrivateKey": edwards[0],
        "secp256k1": koblitz[0],
        "BEGIN PUBLIC KEY": ours[1],
        "no PEM": tmp_path / "text",
        "no PEM (": tmp_path / "empty",
    }
    for words, path in wrong.items():
        with pytest.raises(ConfigError, match="a private key on an elliptic curve") as caught:
            sign_files(folder, FILES, path)
        assert words in str(caught.value)
        assert caught.value.file == str(path)
    sign_files(folder, FILES, ours[0])
    for path in (rsa_key[1], edwards[1], koblitz[1], ours[0], tmp_path / "text"):
        with pytest.raises(ConfigError, match="a public key on an elliptic curve"):
            verify_files(folder, FILES, path)


def test_passwords(folder, keys):
    private, public = keys("locked", password=b"opensesame")
    plain, _ = keys("plain")
    for path, given, words in (
        (private, None, "the password of the key"),
        (private, "wrong", "the password of the key"),
        (plain, "needless", "no password, as the key has none"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            sign_files(folder, FILES, path, password=given)
        assert given is None or given not in str(caught.value)
    assert not (folder / SIGNATURE).exists()
    sign_files(folder, FILES, private, password="opensesame")
    verify_files(folder, FILES, public)


def test_a_missing_key_is_missing(folder, tmp_path):
    for act in (sign_files, verify_files):
        with pytest.raises(PrerequisiteError, match="name the file of the key with --key"):
            act(folder, FILES, tmp_path / "none.pem")


@pytest.mark.parametrize("package", ["model_signing", "model_signing.signing"])
def test_a_missing_extra_is_named(folder, keys, monkeypatch, package):
    private, public = keys("ours")
    monkeypatch.setitem(sys.modules, package, None)
    for act, key in ((sign_files, private), (verify_files, public)):
        with pytest.raises(PrerequisiteError, match=r"pip install 'loricate\[sign\]'"):
            act(folder, FILES, key)


def _edit(folder, change):
    bundle = json.loads((folder / SIGNATURE).read_text())
    change(bundle)
    (folder / SIGNATURE).write_text(json.dumps(bundle))


def _material(bundle):
    return bundle["verificationMaterial"]["publicKey"]


def _hint_of(public):
    import hashlib

    return hashlib.sha256(public.read_bytes()).hexdigest()


def test_what_the_signer_left_out_is_named(folder, keys):
    signing = pytest.importorskip("model_signing.signing")
    hashing = pytest.importorskip("model_signing.hashing")
    private, public = keys("theirs")
    digests = {}
    for name in ("a.txt", "left/weights.bin"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
        digests[name] = hashlib.sha256(name.encode()).hexdigest()
    config = hashing.Config().set_ignored_paths(paths=[folder / "left", folder / SIGNATURE])
    theirs = signing.Config().use_elliptic_key_signer(private_key=private)
    theirs.set_hashing_config(config).sign(folder, folder / SIGNATURE)
    assert verify_files(folder, digests, public) == ("left/weights.bin",)
