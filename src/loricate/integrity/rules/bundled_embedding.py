"""Embeddings that travel inside an adapter."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.integrity._keys import kind_of_key
from loricate.integrity._reading import tensors_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["BundledEmbedding"]


@final
@dataclass(frozen=True, kw_only=True)
class BundledEmbedding(Rule):
    """Textual inversions (``bundle_emb``) inside a LoRA file.

    Fires on every embedding that A1111 takes out of a LoRA file. Its name becomes a word of the
    user's prompts: one that is called like a common word changes what that word means, whether or
    not the LoRA is wanted.

    Severity: medium.

    Cannot see what the embedding means, nor whether its name is a word that people write.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each embedding."""
        bundled = [key for key in tensors_of(subject) if kind_of_key(key) == "bundled"]
        for word in sorted({key.split(".")[1] for key in bundled}):
            yield self.finding(
                subject,
                Severity.MEDIUM,
                f"the embedding {word!r} comes along and gives that word a new meaning",
                advice="load the file without it, or make sure that nobody writes this word",
                where=f"bundle_emb.{word}",
                word=word,
            )
