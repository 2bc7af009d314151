"""Proof of what a folder is, or the names of what is wrong with it."""

from pathlib import Path

from loricate.integrity.manifest import read_manifest
from loricate.integrity.verification import (
    Claim,
    Verification,
    base_claims,
    evidence_claims,
    file_claims,
    merge_claims,
    signature_claims,
)
from loricate.recipes.manifest import survey

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
        ConfigError: The key is of another kind.
        HostileFileError: A link leads to a folder or nowhere, or the manifest is none.
        UnsupportedError: The manifest is of a newer version.
    """
    stated = read_manifest(folder)
    found = survey(folder, strict=False)
    claims = [
        *signature_claims(folder, found.files, key),
        *file_claims(stated, found.listed, found.contents),
        *evidence_claims(found.contents, found.files),
        *base_claims(found.contents, stated, base),
        *merge_claims(found.contents, found.files, base),
    ]
    return Verification(folder=folder, claims=tuple(claims))
