"""One module under two names."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.integrity._keys import Place, place_of
from loricate.integrity._reading import tensors_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["KeyShadow"]


@final
@dataclass(frozen=True, kw_only=True)
class KeyShadow(Rule):
    """Modules that a file updates twice, under two spellings.

    Fires where two naming schemes (kohya, ComfyUI, diffusers, PEFT), two generations of names
    (``lora_A``, ``lora_down``), two prefixes (``lora_te_``, ``lora_te1_``) or a name with and one
    without ``text_model`` mean one module. Every loader picks one of them, so that what was looked
    at need not be what runs.

    Severity: high.

    Cannot see pairs outside Stable Diffusion 1.x, 2.x and XL where dots became underscores in one
    of the names.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for all modules of the file."""
        found: dict[tuple[str, str], list[tuple[Place, str]]] = {}
        for key in tensors_of(subject):
            if (place := place_of(key)) is not None:
                found.setdefault((place.module, place.role), []).append((place, key))
        twins = [twin for each in found.values() if (twin := _twins(each)) is not None]
        if twins:
            first, second = twins[0]
            yield self.finding(
                subject,
                Severity.HIGH,
                f"{first!r} and {second!r} mean one tensor, and {len(twins) - 1} more such pairs",
                advice="keep one spelling; which of the two a loader takes is anybody's guess",
                where=first,
                n_pairs=len(twins),
            )


def _twins(places: Sequence[tuple[Place, str]]) -> tuple[str, str] | None:
    """Two keys for the same module of the same component, as far as names say it."""
    for i, (place, key) in enumerate(places):
        for other, twin in places[i + 1 :]:
            if "" in (place.component, other.component) or place.component == other.component:
                return key, twin
    return None
