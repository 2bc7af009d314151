"""A folder signed with the caller's key."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from loricate.integrity.manifest import (
    MANIFEST,
    read_manifest,
    require_fresh,
    write_manifest,
)
from loricate.integrity.signing import key_hint, require_private_key, sign_files
from loricate.recipes.manifest import require_apart, survey

__all__ = ["Signed", "sign"]


@dataclass(frozen=True, kw_only=True)
class Signed:
    """What was written.

    Args:
        signature: The OpenSSF bundle.
        is_manifest_new: Whether the manifest was written as well.
        n_files: Number of files that are signed.
        key_hint: Digest of the public key, to be compared by people.
    """

    signature: Path
    is_manifest_new: bool
    n_files: int
    key_hint: str | None


def sign(folder: Path, key: Path, *, password: str | None = None) -> Signed:
    """Sign every file of a folder, its manifest included.

    A manifest is written if there is none. One that says something else than the folder is not
    replaced: somebody stated it, and what changed since may be what must not be signed.

    Args:
        folder: Any folder of files.
        key: Elliptic-curve private key in PEM.
        password: Password of an encrypted key.

    Returns:
        What was written.

    Raises:
        PrerequisiteError: The extra ``sign`` or the key is missing, or nothing can be written.
        ConfigError: The key is of another kind or lies in the folder, or the password is missing
            or wrong.
        IntegrityError: The folder changed since its manifest was written.
        HostileFileError: A file is malformed, or the manifest is none.
        UnsupportedError: The manifest is of a newer version.
    """
    require_apart(key, folder, "that stays with you: the folder is meant to be given away")
    require_private_key(key, password)
    found = survey(folder)
    stated = read_manifest(folder)
    digests = {path: each.sha256 for path, each in found.files.items()}
    if stated is not None:
        require_fresh(stated, found.manifest)
    else:
        path = write_manifest(folder, found.manifest)
        digests[MANIFEST] = hashlib.sha256(path.read_bytes()).hexdigest()
    signature = sign_files(folder, digests, key, password=password)
    return Signed(
        signature=signature,
        is_manifest_new=stated is None,
        n_files=len(digests),
        key_hint=key_hint(folder),
    )
