"""What can be proven of a folder: who signed it, its bytes, its base, its merge, its evidence."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np

from loricate.adapters.weights import StoredArray, Weights
from loricate.basics.arrays import dtype_name
from loricate.basics.errors import IntegrityError
from loricate.integrity._base_model import open_base
from loricate.integrity._suffixes import WEIGHTS
from loricate.integrity.contents import Contents
from loricate.integrity.digest import adapter_digest, digest
from loricate.integrity.hashing import FileEntry, unlisted
from loricate.integrity.manifest import MANIFEST, REPORT, Manifest, differences, manifest_of
from loricate.integrity.merge_check import name_in_diffusers
from loricate.integrity.signing import SIGNATURE, verify_files
from loricate.records.io import RECORD_FILE
from loricate.records.schema import Integrity

__all__ = [
    "Claim",
    "Verification",
    "base_claims",
    "evidence_claims",
    "file_claims",
    "known_digests",
    "signature_claims",
    "unlisted_claims",
]


@final
@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that was to be proven.

    Args:
        name: ``signature``, ``files``, ``base``, ``merge`` or ``evidence``.
        path: File or folder it is about.
        passed: Whether it holds; ``None`` where that could not be found out.
        message: What was found.
        where: Tensor or component, where it is about one.
        is_asked: Whether the caller gave what it takes. Otherwise it is listed and decides nothing.
    """

    name: str
    path: str
    passed: bool | None
    message: str
    where: str | None = None
    is_asked: bool = True

    @property
    def entry(self) -> str:
        """Name of what it is about."""
        return self.path if self.where is None else f"{self.path}:{self.where}"


@final
@dataclass(frozen=True, kw_only=True)
class Verification:
    """Everything that was checked of a folder.

    Args:
        folder: The folder.
        claims: What was to be proven, in order.
    """

    folder: Path
    claims: tuple[Claim, ...]

    @property
    def outcome(self) -> Literal["pass", "fail", "inconclusive"]:
        """``fail`` if one claim fails, ``inconclusive`` if one that was asked for is open."""
        passed = [claim.passed for claim in self.claims if claim.is_asked]
        if False in passed:
            return "fail"
        return "inconclusive" if None in passed or not passed else "pass"

    def require(self) -> None:
        """Insist on it.

        Raises:
            IntegrityError: A claim fails; its entries are named.
        """
        failed = [claim for claim in self.claims if claim.passed is False]
        if failed:
            names = ", ".join(dict.fromkeys(claim.name for claim in failed))
            entries = list(dict.fromkeys(claim.entry for claim in failed))
            raise IntegrityError(f"{names} of {str(self.folder)!r}", entries=entries)


def signature_claims(
    folder: Path, files: Mapping[str, FileEntry], key: Path | None
) -> Iterator[Claim]:
    """Whether the files are what the caller's key has signed.

    Args:
        folder: The folder.
        files: All its files, the manifest among them.
        key: The caller's public key; ``None`` leaves it open, whatever the signature says.

    Raises:
        PrerequisiteError: The extra ``sign`` or the key is missing.
        ConfigError: The key is of another kind.
    """
    if key is None:
        why = "no key was given; a signature is worth what the key is worth that you trust: --key"
        yield Claim(name="signature", path=SIGNATURE, passed=None, message=why)
        return
    try:
        left_out = verify_files(folder, {path: each.sha256 for path, each in files.items()}, key)
    except IntegrityError as error:
        for entry in error.entries or [SIGNATURE]:
            message = f"{error.what} does not match"
            yield Claim(name="signature", path=entry, passed=False, message=message)
    else:
        n_signed = len(files) - len(left_out)
        message = f"all {n_signed} files are as the key {key.name!r} signed them"
        yield Claim(name="signature", path=SIGNATURE, passed=True, message=message)
        for path in left_out:
            why = "whoever signed the folder left it out"
            yield Claim(name="signature", path=path, passed=None, message=why)


def file_claims(
    manifest: Manifest | None, files: Mapping[str, FileEntry], contents: Contents
) -> Iterator[Claim]:
    """Whether every byte is as listed, nothing is added and nothing is missing.

    Args:
        manifest: The manifest of the folder, where there is one.
        files: Its files, without manifest and signature.
        contents: Its adapters and record.
    """
    for path, entry in files.items():
        if entry.tensors is None and path.lower().endswith(".safetensors"):
            why = "malformed, or of an unknown dtype: its tensors were not looked at"
            yield Claim(name="files", path=path, passed=None, message=why)
    if manifest is None:
        why = "there is none; write one with 'loricate manifest'"
        yield Claim(name="files", path=MANIFEST, passed=None, message=why, is_asked=False)
        return
    found = differences(manifest.files, files)
    for each in found:
        yield Claim(
            name="files", path=each.path, passed=False, message=each.what, where=each.tensor
        )
    if not found and not manifest.states_the_same(manifest_of(files, contents)):
        what = "it states another adapter, base or evidence than the files"
        yield Claim(name="files", path=MANIFEST, passed=False, message=what)
    elif not found:
        n_tensors = sum(len(each.tensors or {}) for each in files.values())
        size = sum(each.size_bytes for each in files.values())
        what = f"{len(files)} files, {n_tensors} tensors and {size:,} bytes are as listed"
        yield Claim(name="files", path=MANIFEST, passed=True, message=what)


def unlisted_claims(folder: Path) -> Iterator[Claim]:
    """Whether nothing that can be loaded or run lies where neither manifest nor signature looks.

    Args:
        folder: The folder.
    """
    for path, kind in unlisted(folder).items():
        what = "a folder that cannot be entered," if kind == "folder" else kind
        why = f"{what} in a place that manifests and signatures leave out"
        passed = False if kind == "weights" else None
        yield Claim(name="files", path=path, passed=passed, message=why)


def evidence_claims(contents: Contents, files: Mapping[str, FileEntry]) -> Iterator[Claim]:
    """Whether the record of a run belongs to the weights beside it.

    Args:
        contents: Adapters and record.
        files: Files of the folder.
    """
    if RECORD_FILE in contents.unread:
        why = contents.unread[RECORD_FILE]
        yield Claim(name="evidence", path=RECORD_FILE, passed=None, message=why)
    record = contents.record
    if record is None:
        return
    for blob in record.blobs:
        is_kept = blob.path in files and files[blob.path].sha256 == blob.sha256
        if not is_kept:
            yield _evidence(False, "not the picture the record states", path=blob.path)
    proof = record.integrity
    if proof is None:
        yield _evidence(None, "the record states no digest of weights")
        return
    if not proof.holds:
        what = "it says that the base was changed, or that the merged model is another"
        yield _evidence(False, what)
    if proof.adapter_digest is None:
        yield _evidence(None, "the record states no digest of the adapter")
        return
    matching = [
        path
        for path, adapter in contents.adapters.items()
        if adapter_digest(adapter) == proof.adapter_digest
    ]
    if matching:
        yield _evidence(True, f"the record is about the adapter {matching[0]!r}")
        yield from _report_claims(contents.folder, proof, files)
    elif record.kind == "evaluate" and not contents.adapters:
        yield _evidence(None, "the adapter that was evaluated is not in the folder")
    else:
        yield _evidence(False, "the record is about another adapter than those in the folder")


def base_claims(
    contents: Contents, manifest: Manifest | None, base: Path | None
) -> Iterator[Claim]:
    """Whether a model is the base that record, adapters and manifest name.

    Args:
        contents: Adapters and record.
        manifest: The manifest, whose statements count as well.
        base: The model; ``None`` leaves it open.

    Raises:
        LoricateError: The model cannot be read.
    """
    stated = {part: dict(each) for part, each in contents.bases.items()}
    for part, each in (manifest.bases if manifest is not None else {}).items():
        stated[part] = dict(each) | stated.get(part, {})
    if base is None:
        for component in stated or ("base",):
            why = "not compared; name the model with --base"
            yield Claim(name="base", path=component, passed=None, message=why, is_asked=False)
        return
    if not stated:
        why = "neither record nor adapter states the digest of its base"
        yield Claim(name="base", path=str(base), passed=None, message=why)
        return
    parts = open_base(base)
    lone = next(iter(parts.values())) if len(parts) == 1 else None
    for component, statements in sorted(stated.items()):
        weights = parts.get(component, lone)
        if weights is None:
            why = f"it has no {component}"
            yield Claim(name="base", path=str(base), passed=False, message=why, where=component)
            continue
        known = known_digests(component, weights, set(statements.values()))
        twice = _stored_twice(component, weights)
        for path, expected in sorted(statements.items()):
            is_same = expected in known
            what = "the base that" if is_same else "another base than"
            message = f"it is {what} {path!r} states"
            if twice and not is_same:
                message += f"; it holds two tensors for {twice[0]!r}"
            yield Claim(
                name="base", path=str(base), passed=is_same, message=message, where=component
            )
        if base.is_dir():
            yield from _passed_over(weights, component)


def _passed_over(weights: Weights, component: str) -> Iterator[Claim]:
    """Other files of weights in the folder, which a loader may take instead."""
    read = {file.path for file, _ in weights.sources.values()}
    for path in sorted({each for file in read for each in file.parent.iterdir()} - read):
        if path.suffix.lower() in WEIGHTS:
            why = "held to nothing: a loader may take it instead of what was compared"
            yield Claim(name="base", path=str(path), passed=None, message=why, where=component)


def _evidence(passed: bool | None, message: str, *, path: str = RECORD_FILE) -> Claim:
    return Claim(name="evidence", path=path, passed=passed, message=message)


def _report_claims(
    folder: Path, proof: Integrity, files: Mapping[str, FileEntry]
) -> Iterator[Claim]:
    """A page shows the digests of its record, so it is about the same weights or others."""
    if REPORT not in files:
        return
    page = (folder / REPORT).read_bytes()
    digests = (proof.adapter_digest, proof.base_digest_before)
    is_same = all(each is None or each.encode() in page for each in digests)
    what = "the page is about the same weights" if is_same else "the page is about other weights"
    yield _evidence(is_same, what, path=REPORT)


def known_digests(component: str, weights: Weights, wanted: set[str]) -> set[str]:
    """Digests that weights have, as stored or, where that is not enough, as a loader changes them.

    A run hashes what it loaded: under the names of diffusers, and in float32; a copy of a part may
    have those names alone.

    Args:
        component: What the weights are of.
        weights: Weights of a base.
        wanted: Digests that are asked about.
    """
    known = {digest(weights)}
    plain = {name: name for name in weights}
    twice = _stored_twice(component, weights)
    # Of two tensors for one place, nobody knows which a loader takes.
    renamed = {} if twice else {name_in_diffusers(component, name): name for name in weights}
    for names, is_wide in ((plain, True), (renamed, True), (renamed, False)):
        if names and not wanted <= known:
            loaded = {new: _loaded(new, weights[old], is_wide) for new, old in names.items()}
            known.add(digest(loaded))
    return known


def _stored_twice(component: str, weights: Weights) -> list[str]:
    """Names in diffusers that two tensors have."""
    counts = Counter(name_in_diffusers(component, name) for name in weights)
    return sorted(name for name, count in counts.items() if count > 1)


def _loaded(name: str, weight: StoredArray, is_wide: bool) -> StoredArray:
    is_half = dtype_name(weight) in ("float16", "bfloat16")
    wide = weight.astype(np.float32) if is_half and is_wide else weight
    # Attention of an autoencoder is a 1x1 convolution in single files alone.
    is_attention = ".attentions.0.to_" in name and wide.shape[2:] == (1, 1)
    return wide.reshape(wide.shape[:2]) if is_attention else wide
