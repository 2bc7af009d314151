"""Updates whose numbers no rule can judge."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.basics.errors import NumericalError
from loricate.integrity._npz import holds_numbers_alone
from loricate.integrity._readable import DORA
from loricate.integrity._reading import adapter_of, tensors_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["UnjudgedUpdates"]


@final
@dataclass(frozen=True, kw_only=True)
class UnjudgedUpdates(Rule):
    """Modules of an adapter whose update has no numbers that could be judged.

    Plain pairs, pairs of embeddings, LoHa and LoKr are judged module by module, whatever else a
    file holds; so are the factors of DoRA, and its magnitudes by ``dora_magnitude``. Lists each
    module of another kind (OFT, GLoRA, IA3, biases, unknown tensors), or with factors that do not
    belong together, as not verified. Such a file does not pass: the verdict is inconclusive, since
    what nobody has looked at may be all there is to it. The same holds for tensors in a pickle:
    that it imports nothing odd says nothing of its numbers. Arrays of ``np.savez`` that are plain
    numbers are neither a pickle nor an adapter.

    Severity: high where the product of finite factors overflows.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS, Content.PICKLE})
    needs_adapter: ClassVar = True
    is_essential: ClassVar = True

    def concerns(self, subject: Subject) -> bool:
        """Whether there are updates in a file, or tensors in a pickle that may be some."""
        is_moot = (
            subject.content is Content.PICKLE
            and not (subject.pickled.imports or subject.pickled.obstacles)
            and holds_numbers_alone(subject.path)
        )
        return super().concerns(subject) and not is_moot

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One entry for each module that is left out, or one for a pickle."""
        if subject.content is Content.PICKLE:
            yield self.not_verified(
                subject, "tensors in a pickle are not read; convert it to safetensors and scan that"
            )
            return
        tensors_of(subject)
        readable = subject.readable
        for module, why in readable.left_out.items() if readable is not None else ():
            is_judged = why == DORA and readable is not None and module in readable.placed
            if not is_judged:
                yield self.not_verified(subject, why, where=module)
        if readable is not None and not readable.left_out:
            adapter_of(subject)
        try:
            _ = subject.features
        except NumericalError as error:
            yield self.finding(
                subject,
                Severity.HIGH,
                str(error),
                advice="its numbers are no update of anything; take another copy",
            )
