"""Pickles, which run code when they are loaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.integrity._grades import graded
from loricate.integrity._suffixes import code_in
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["Pickle"]


@final
@dataclass(frozen=True, kw_only=True)
class Pickle(Rule):
    """Pickles that import anything but what plain tensors need.

    Reads the opcodes of every pickle in a file, in what is compressed, in zip and tar archives
    inside of each other and in object arrays of numpy, found by content and not by name, and never
    loads one. Whatever a file is, it is read as a pickle too, as it may be both. Fires where
    ``picklescan --strict`` does: on every import outside of its short allow-list, to which
    ``torch._utils._rebuild_parameter`` is added: it wraps a tensor that the same pickle has to make
    in a ``Parameter``, imports nothing and calls nothing of it, and embeddings of the WebUI need
    it. Fires on a safetensors file that goes on and on as a pickle as well, whatever it imports.
    Text in which letters happen to be opcodes is no pickle unless they call something.

    Severity: critical for imports known to run, build or load code, high for all others.

    Cannot see what allowed imports do with their arguments, or pickles that are data of pickles.
    What is compressed, what is in archives that are not opened, and what is named as a pickle and
    of no known kind is said to be not verified.

    Args:
        max_shown: Imports that are listed one by one.
        max_chance: Opcodes that a safetensors file may look like by chance.

    Source: picklescan 1.0; the design page compares it with its peers.
    """

    applies_to: ClassVar[frozenset[Content]] = frozenset(Content) - {Content.FOLDER}

    # A pickle that nobody could follow may be made for that.
    is_essential: ClassVar[bool] = True

    max_shown: int = 10
    max_chance: int = 1000

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each import, one for a second meaning, and what could not be read."""
        pickled = subject.pickled
        is_tensors = subject.content is Content.SAFETENSORS
        if is_tensors and pickled.n_spent > self.max_chance:
            yield self.finding(
                subject,
                Severity.HIGH,
                "this safetensors file goes on and on as a pickle",
                advice="do not load it; no writer of safetensors makes such a file",
                n_opcodes=pickled.n_spent,
            )
        found = graded(pickled.imports)
        for each, severity in list(found.items())[: self.max_shown]:
            place = f"{each.module}.{each.name}"
            inside = {"inside": name} if (name := pickled.imports[each]) else {}
            yield self.finding(
                subject,
                severity,
                f"loading this file imports {place}".encode("ascii", "backslashreplace").decode(),
                advice="do not load it; ask for a safetensors file",
                where=place,
                n_imports=len(found),
                **inside,
            )
        if subject.content is Content.PICKLE and (kind := code_in(subject.path)) is not None:
            yield self.not_verified(subject, f"{kind} with a pickle or zip archive in it")
        for obstacle in pickled.obstacles:
            # The length of a header may look like the beginning of a pickle, and JSON is known.
            is_known = is_tensors or subject.content is Content.JSON
            if not (is_known and obstacle.is_chance):
                yield self.not_verified(subject, obstacle.why, where=obstacle.name or None)
