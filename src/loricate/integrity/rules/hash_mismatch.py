"""Hashes that a file states about itself or its base."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.adapters.keys import BASE_DIGEST, HASH_KEY
from loricate.integrity._reading import tensors_of
from loricate.integrity.digest import stated_bases
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["HashMismatch"]

_DATA_HASHES = (HASH_KEY, "modelspec.hash_sha256")


@final
@dataclass(frozen=True, kw_only=True)
class HashMismatch(Rule):
    """Hashes in the header that are not those of the tensors, or not of the base at hand.

    ``sshs_model_hash`` of kohya and ``modelspec.hash_sha256`` cover all bytes behind the header;
    ``loricate.base_digest`` names the base an adapter was made for. A file whose own hash is wrong
    was changed after it was written; an adapter on another base does what nobody has measured.

    Severity: high. A file that states no hash is none that this rule applies to, and does not pass
    it.

    Cannot see a change by somebody who wrote the hash anew: the header is part of the file. Trust
    needs a signature. The legacy hash of kohya covers 64 KiB alone and is not looked at.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})

    def concerns(self, subject: Subject) -> bool:
        """Whether a hash is stated; a file that states none has not passed this rule.

        Args:
            subject: A safetensors file.
        """
        return subject.tensors is None or any(
            said and (key in _DATA_HASHES or key.startswith(BASE_DIGEST))
            for key, said in subject.tensors.metadata.items()
        )

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each wrong hash."""
        metadata = tensors_of(subject).metadata
        for key in _DATA_HASHES:
            said, actual = metadata.get(key), subject.data_sha256
            if said and actual and said.lower().removeprefix("0x") != actual:
                yield self._wrong(subject, key, said, actual, "of the tensors in this file")
        if any(said and key.startswith(BASE_DIGEST) for key, said in metadata.items()):
            yield from self._bases(subject)

    def _bases(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        stated = {} if subject.adapter is None else stated_bases(subject.adapter.adapter)
        if not stated:
            why = "the file names a base, of no component that an adapter in it updates"
            yield self.not_verified(subject, why, where=BASE_DIGEST)
            return
        for component, said in stated.items():
            key = f"{BASE_DIGEST}.{component}"
            if subject.base is None:
                why = "the file names the base it is for, and no base is given"
                yield self.not_verified(subject, why, where=key)
            elif (actual := subject.base.digest(component)) != said:
                yield self._wrong(subject, key, said, str(actual), "of the base that is given")

    def _wrong(self, subject: Subject, key: str, said: str, actual: str, of: str) -> Finding:
        return self.finding(
            subject,
            Severity.HIGH,
            f"the stated hash {said[:12]!r} is not the one {of}, {actual[:12]!r}",
            advice="get the file from its origin again, with the base it was made for",
            where=key,
            stated=said[:80],
            actual=actual,
        )
