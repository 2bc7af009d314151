"""Tensors that replace or change whole weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.integrity._keys import is_adapter, kind_of_key
from loricate.integrity._reading import tensors_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["FullReplace"]

_SAVED = "modules_to_save"


@final
@dataclass(frozen=True, kw_only=True)
class FullReplace(Rule):
    """Tensors of an adapter that are no low-rank update, but whole weights, biases or norms.

    Fires on ``set_weight``, ``reshape_weight``, ``diff``, ``diff_b``, ``w_norm`` and ``b_norm``,
    which ComfyUI and LyCORIS write over the model or add to it at full rank, and on the weights
    that PEFT keeps for ``modules_to_save``. Such a file can exchange any layer, or all of them,
    and no rank, norm or spectrum of its low-rank part says so.

    Severity: high.

    Cannot see whether the new weights are good: trainers of norms and of full differences write
    such files in good faith.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each kind of replacement in the file."""
        keys = tensors_of(subject)
        is_ours = is_adapter(keys) or "peft_type" in (subject.config or {})
        found: dict[str, list[str]] = {}
        for key in keys:
            if (kind := _replacement(key, is_ours)) is not None:
                found.setdefault(kind, []).append(key)
        for kind, names in sorted(found.items()):
            yield self.finding(
                subject,
                Severity.HIGH,
                f"{len(names)} tensors of kind {kind} change whole weights at full rank",
                advice="ask for an adapter without them, or compare the merged model with its base",
                where=names[0],
                kind=kind,
                n_tensors=len(names),
            )


def _replacement(key: str, is_ours: bool) -> str | None:
    kind = kind_of_key(key)
    if kind == "replacement":
        return key.rpartition(".")[2]
    is_full = f".{_SAVED}." in key or (is_ours and key.endswith((".weight", ".bias")))
    return _SAVED if is_full and kind is None else None
