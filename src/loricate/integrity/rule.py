"""What a rule of ``loricate scan`` is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from loricate.basics.registry import key_of
from loricate.integrity._keys import is_adapter
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.subject import Content, Subject

__all__ = ["Rule"]


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """One thing that files are checked for.

    Subclasses are final frozen dataclasses whose fields are their thresholds. They may raise any
    ``LoricateError``, which counts as not verified.
    """

    applies_to: ClassVar[frozenset[Content]]
    """Content of files that are checked."""

    needs_base: ClassVar[bool] = False
    """Whether there is nothing to check without a base."""

    needs_adapter: ClassVar[bool] = False
    """Whether there is nothing to check in tensors that are not those of an adapter."""

    looks_inside: ClassVar[bool] = True
    """Whether a file that passes was judged; a look at its name is no judgement."""

    is_essential: ClassVar[bool] = False
    """Whether a file does not pass where this rule could not judge something in it."""

    def concerns(self, subject: Subject) -> bool:
        """Whether there is anything in a file that this rule looks at, be it in order or not.

        Args:
            subject: A file whose content it applies to.
        """
        return not self.needs_adapter or subject.tensors is None or is_adapter(subject.tensors)

    @abstractmethod
    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """What is found in a file; nothing where all of it was judged and is in order."""

    def finding(
        self,
        subject: Subject,
        severity: Severity,
        message: str,
        *,
        advice: str,
        where: str | None = None,
        **evidence: float | int | str,
    ) -> Finding:
        """A finding of this rule.

        Args:
            subject: The file.
            severity: How much harm it can do.
            message: What was found, in words.
            advice: What to do about it.
            where: Module, tensor or key in the file.
            evidence: Numbers and texts the judgement rests on.
        """
        return Finding(
            rule=key_of(type(self)),
            severity=severity,
            path=str(subject.path),
            message=message,
            advice=advice,
            where=where,
            evidence=evidence,
        )

    def not_verified(self, subject: Subject, why: str, *, where: str | None = None) -> NotVerified:
        """Something that this rule could not judge.

        Args:
            subject: The file.
            why: Reason, in words.
            where: Module, tensor or key in the file.
        """
        return NotVerified(rule=key_of(type(self)), path=str(subject.path), why=why, where=where)
