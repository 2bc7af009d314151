"""Signatures as OpenSSF model-signing bundles; keys are the caller's, and nothing uses a network.

The bundle states the SHA-256 of every file. Those are handed to the package ``model-signing``,
which alone decides whether they are what a key has signed, so files are read once.
"""

import base64
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, Final, final

from loricate.adapters.tensors import bounded_json
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    HostileFileError,
    IntegrityError,
    PrerequisiteError,
)
from loricate.basics.files import write_atomically
from loricate.integrity.hashing import IGNORED

__all__ = ["SIGNATURE", "key_hint", "require_private_key", "sign_files", "verify_files"]

SIGNATURE: Final = "model.sig"
"""Name of a signature in the folder it is for."""

_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_MAX_BYTES: Final = 1 << 28


def require_private_key(key: Path, password: str | None = None) -> None:
    """Refuse what cannot sign, before anything is read or written for it.

    Args:
        key: Elliptic-curve private key in PEM.
        password: Password of an encrypted key.

    Raises:
        PrerequisiteError: The extra ``sign`` or the key is missing.
        ConfigError: The key is of another kind, or the password is missing or wrong.
    """
    _require_key(key, "private", None if password is None else password.encode())


def sign_files(
    folder: Path, digests: Mapping[str, str], key: Path, *, password: str | None = None
) -> Path:
    """Write the signature of files into their folder, in place of one that is there.

    Args:
        folder: The folder.
        digests: SHA-256 of every file in it by relative path, but for the signature itself.
        key: Elliptic-curve private key in PEM, which is read and nothing else.
        password: Password of an encrypted key.

    Returns:
        Path of the signature.

    Raises:
        PrerequisiteError: The extra ``sign`` or the key is missing, or there is no place to write.
        ConfigError: The key is of another kind, or the password is missing or wrong.
    """
    require_private_key(key, password)
    signing = _module("model_signing").signing
    secret = None if password is None else password.encode()
    # The package passes the password on, and what it goes to wants bytes.
    config = signing.Config().use_elliptic_key_signer(private_key=key, password=secret)
    config.set_hashing_config(_Known(folder.resolve().name, digests))
    path = folder / SIGNATURE
    with tempfile.TemporaryDirectory() as elsewhere:
        draft = Path(elsewhere) / SIGNATURE
        config.sign(folder, draft)
        content = draft.read_bytes()
    try:
        write_atomically(path, content)
    except OSError as error:
        missing = f"a place to write {str(path)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="take a copy that can be written to") from error
    return path


def verify_files(folder: Path, digests: Mapping[str, str], key: Path) -> tuple[str, ...]:
    """Hold files to the signature in their folder.

    A key that the signature itself brings along is never used.

    Args:
        folder: The folder.
        digests: SHA-256 of every file in it by relative path, but for the signature itself.
        key: Elliptic-curve public key in PEM, from whom the caller trusts.

    Returns:
        Files that whoever signed left out, so that nothing is known of them.

    Raises:
        IntegrityError: There is no signature, it is malformed or not of this key, or files are
            not as they were signed; their names are the entries.
        PrerequisiteError: The extra ``sign`` or the key is missing.
        ConfigError: The key is of another kind.
    """
    verifying = _module("model_signing").verifying
    _require_key(key, "public")
    config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    stated = _statement(folder / SIGNATURE)
    known = _Known(folder.resolve().name, digests)
    try:
        if stated.options:  # which bundles of before 1.0 lack
            config.set_hashing_config(known if stated.files is not None else hashing(stated))
        # It prints warnings where results belong.
        with contextlib.redirect_stdout(sys.stderr):
            config.verify(folder, folder / SIGNATURE)
    except Exception as error:
        raise _mismatch(error, stated, known) from error
    return stated.left_out(digests)


def key_hint(folder: Path) -> str | None:
    """What the signature in a folder says of its key, to be shown and never to be trusted.

    Args:
        folder: The folder.
    """
    try:
        return _statement(folder / SIGNATURE).hint
    except IntegrityError:
        return None


@final
@dataclass
class _Known:
    """Stands where the package has its hashing: the digests were taken already."""

    name: str
    digests: Mapping[str, str]
    ignored: list[str] = field(default_factory=list)
    is_asked: bool = False

    def add_ignored_paths(self, *, model_path: Path, paths: list[str]) -> None:
        self.ignored += map(str, paths)

    def hash(self, model_path: Path, *, files_to_hash: object = None) -> Any:
        self.is_asked = True
        manifest = _module("model_signing").manifest
        options = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
        kind = manifest.SerializationType.from_args(
            options | {"ignore_paths": [SIGNATURE, *IGNORED]}
        )
        items = [
            kind.new_item(name, manifest.hashing.Digest("sha256", bytes.fromhex(digest)))
            for name, digest in self.counted().items()
        ]
        return manifest.Manifest(self.name, items, kind)

    def counted(self) -> dict[str, str]:
        """Digests of the files that the signer did not leave out."""

        def is_ignored(name: str) -> bool:
            return any(PurePosixPath(name).is_relative_to(path) for path in self.ignored)

        return {name: each for name, each in self.digests.items() if not is_ignored(name)}


@final
@dataclass(frozen=True)
class _Statement:
    """What a bundle says, before anybody has checked who says it.

    Args:
        options: How files were hashed.
        files: SHA-256 of every file; ``None`` where they were hashed otherwise, which is then
            left to the package.
        hint: Digest of the key.
    """

    options: Mapping[str, Any]
    files: Mapping[str, str] | None
    hint: str | None

    def left_out(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of some files that lie below a path that is ignored."""
        ignored = [str(path) for path in self.options.get("ignore_paths", ()) or ()]
        return tuple(
            name
            for name in names
            if any(PurePosixPath(name).is_relative_to(path) for path in ignored)
        )


def _statement(path: Path) -> _Statement:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise HostileFileError(path, reason=f"a signature of more than {_MAX_BYTES} bytes")
        bundle = bounded_json(path.read_bytes())
        payload = bounded_json(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        hint = bundle["verificationMaterial"].get("publicKey", {}).get("hint")
        predicate = payload.get("predicate", {})
        options, listed = predicate.get("serialization", {}), predicate.get("resources", [])
        is_plain = options.get("method") == "files" and options.get("hash_type") == "sha256"
        files = {str(each["name"]): str(each["digest"]) for each in listed}
        hint = None if hint is None else str(hint)
        return _Statement(dict(options), files if is_plain else None, hint)
    except FileNotFoundError:
        raise IntegrityError(
            "the signature, of which there is none,", entries=[SIGNATURE]
        ) from None
    except OSError as error:
        missing = f"a readable file {str(path)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"the signature, which is no bundle ({type(error).__name__}),"
        raise IntegrityError(what, entries=[SIGNATURE]) from error


def hashing(stated: _Statement) -> Any:
    """Their hashing, set up as a bundle says; their own guess of it, in 1.1.1, fails for these."""
    config = _module("model_signing").hashing.Config()
    config.set_ignored_paths(paths=[SIGNATURE, *IGNORED]).set_allow_symlinks(True)
    algorithm = {"blake2b": "blake2"}.get(stated.options["hash_type"], stated.options["hash_type"])
    if stated.options["method"] == "shards":
        size = int(stated.options["shard_size"])
        return config.use_shard_serialization(hashing_algorithm=algorithm, shard_size=size)
    return config.use_file_serialization(hashing_algorithm=algorithm)


def _mismatch(error: Exception, stated: _Statement, known: _Known) -> IntegrityError:
    if known.is_asked and stated.files is not None:
        # The signature itself is good: the package asks for files after it has checked that.
        found, files = known.counted(), stated.files
        names = found.keys() | files.keys()
        differing = sorted(name for name in names if found.get(name) != files.get(name))
        return IntegrityError("what was signed", entries=differing or [SIGNATURE])
    if stated.files is None and str(error).startswith("Signature mismatch"):
        return IntegrityError(f"what was signed ({error})", entries=[SIGNATURE])
    is_other = str(error).startswith("Key mismatch")
    why = "is of another key" if is_other else "is not of this key or was altered"
    return IntegrityError(f"the signature, which {why},", entries=[SIGNATURE])


def _require_key(path: Path, kind: str, password: bytes | None = None) -> None:
    """Refuse what is no key of the kind, in words; the package fails by an AttributeError."""
    serialization = _module("cryptography.hazmat.primitives.serialization")
    try:
        content = path.read_bytes()
    except OSError as error:
        missing = f"a readable {kind} key at {str(path)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="name the file of the key with --key") from error
    load: Callable[..., Any]
    if kind == "private":
        load, options = serialization.load_pem_private_key, {"password": password}
    else:
        load, options = serialization.load_pem_public_key, {}
    try:
        key = load(content, **options)
    except TypeError:
        word = "no password, as the key has none" if password else "the password of the key"
        got = "one" if password else None
        raise ConfigError(ConfigProblem(key="password", expected=word, got=got)) from None
    except Exception as error:
        raise _no_key(path, kind, content, error) from None
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in _CURVES:
        raise _other_key(path, kind, curve or type(key).__name__.removeprefix("_"))


def _no_key(path: Path, kind: str, content: bytes, error: Exception) -> ConfigError:
    if b"ENCRYPTED" in content and kind == "private":
        problem = ConfigProblem(key="password", expected="the password of the key", got="another")
        return ConfigError(problem, file=path)
    headers = [line for line in content.decode("ascii", "replace").splitlines() if "BEGIN" in line]
    return _other_key(path, kind, headers[0] if headers else f"no PEM ({type(error).__name__})")


def _other_key(path: Path, kind: str, got: str) -> ConfigError:
    curves = ", ".join(_CURVES.values())
    expected = f"a {kind} key on an elliptic curve ({curves}) in PEM"
    return ConfigError(ConfigProblem(key="key", expected=expected, got=got), file=path)


def _module(name: str) -> Any:
    """A module of the extra ``sign``, imported when it is needed."""
    try:
        for each in ("signing", "verifying", "manifest"):
            import_module(f"model_signing.{each}")
        return import_module(name)
    except ModuleNotFoundError as error:
        if missing := PrerequisiteError.from_import(error):
            raise missing from error
        raise
