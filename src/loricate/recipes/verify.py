"""Proof of what a folder is, or the names of what is wrong with it."""

from pathlib import Path

from loricate.basics.errors import HostileFileError, UnsupportedError
from loricate.integrity._base_model import open_base
from loricate.integrity.manifest import MANIFEST, Manifest, read_manifest
from loricate.integrity.merge_claims import merge_claims
from loricate.integrity.verification import (
    Claim,
    Verification,
    base_claims,
    evidence_claims,
    file_claims,
    signature_claims,
    unlisted_claims,
)
from loricate.recipes.manifest import require_apart, survey

__all__ = ["Claim", "Verification", "verify"]


def verify(folder: Path, *, key: Path | None = None, base: Path | None = None) -> Verification:
    """Check signature, bytes, base, merged weights and evidence of a folder.

    Args:
        folder: A run, an adapter or a model, wherever it was moved to.
        key: Public key that the caller trusts; without it the outcome is inconclusive at best.
        base: Model that is said to be the base.

    Returns:
        Every claim with what was found.

    Raises:
        PrerequisiteError: The extra ``sign``, the key or the base is missing, or a file cannot be
            read.
        ConfigError: The key is of another kind, or lies in the folder.
        HostileFileError: A link leads to a folder or nowhere.
    """
    if key is not None:
        require_apart(key, folder, "that you trust: who made the folder chose the keys in it")
    if base is not None:
        open_base(base)  # so that nothing else is looked at for a base that is none
    stated, refusal = _stated(folder)
    found = survey(folder, strict=False)
    claims = [
        *signature_claims(folder, found.files, key),
        *(refusal or file_claims(stated, found.listed, found.contents)),
        *unlisted_claims(folder),
        *evidence_claims(found.contents, found.files),
        *base_claims(found.contents, stated, base),
        *merge_claims(found.contents, found.files, base),
    ]
    return Verification(folder=folder, claims=tuple(claims))


def _stated(folder: Path) -> tuple[Manifest | None, list[Claim]]:
    """The manifest, or the claim that it is none; whether it was signed is asked all the same."""
    try:
        return read_manifest(folder), []
    except (HostileFileError, UnsupportedError) as error:
        passed = False if isinstance(error, HostileFileError) else None
        return None, [Claim(name="files", path=MANIFEST, passed=passed, message=str(error))]
