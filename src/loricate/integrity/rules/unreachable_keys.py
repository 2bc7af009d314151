"""Tensors that no loader takes, or that some loader leaves out."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.integrity._keys import is_adapter, is_bare, kind_of_key, part_of, scheme_of
from loricate.integrity._reading import tensors_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["UnreachableKeys"]

_ATTENTION = re.compile(r"\.(attn1|attn2)\.")
_NO_PIPELINE = "vae."


@final
@dataclass(frozen=True, kw_only=True)
class UnreachableKeys(Rule):
    """Tensors of an adapter that loaders drop without a word.

    Goes through the tensors as each loader does: PEFT, the pipelines and the models of diffusers,
    ComfyUI and A1111. Fires where no loader takes a tensor, or half of a pair is missing (medium:
    something is carried along that nothing uses, or its name is a near miss of one that is used);
    where diffusers drops the magnitudes of DoRA, so that it runs another update than the file
    holds (medium); and where a loader that takes a part of the file leaves out the rest (low).

    Cannot see what a loader does with a tensor it takes, nor loaders of other versions than those
    that were read: PEFT 0.21, diffusers 0.42, ComfyUI a125cd84.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for tensors that nobody takes, one for each loader that takes a part."""
        keys = list(tensors_of(subject))
        if not is_adapter(keys):
            return
        schemes = {scheme_of(key) for key in keys}
        # Names without a component are those of one model, if all names are.
        strays = {key for key in keys if len(schemes) > 1 and _is_stray(key)}
        taken = {
            loader: [key for key in keys if takes(key) and key not in strays]
            for loader, takes in _LOADERS.items()
        }
        anybody = set().union(*taken.values())
        yield from self._dropped(
            subject, [key for key in keys if key not in anybody], "no loader takes", Severity.MEDIUM
        )
        yield from self._dropped(
            subject, _halves(keys), "no loader finds the other half of", Severity.MEDIUM
        )
        magnitudes = [key for key in keys if key.endswith(".dora_scale")]
        yield from self._dropped(
            subject, magnitudes, "pipelines of diffusers drop", Severity.MEDIUM
        )
        for loader, found in taken.items():
            if found:
                rest = anybody.difference(found, magnitudes)
                dropped = [key for key in keys if key in rest]
                yield from self._dropped(subject, dropped, f"{loader} leaves out", Severity.LOW)

    def _dropped(
        self, subject: Subject, keys: list[str], who: str, severity: Severity
    ) -> Iterator[Finding]:
        if keys:
            yield self.finding(
                subject,
                severity,
                f"{who} {keys[0]!r} and {len(keys) - 1} more tensors",
                advice="convert the file for the loader you use, and ask what the rest is for",
                where=keys[0],
                n_tensors=len(keys),
            )


def _halves(keys: list[str]) -> list[str]:
    """Factors without the other factor of their pair; alpha may belong to another kind."""
    roles: dict[str, dict[str, str]] = {}
    others = set()
    for part in filter(None, map(part_of, keys)):
        if part.kind == "lora":
            roles.setdefault(part.module, {})[part.role] = part.key
        else:
            others.add(part.module)
    return [
        key
        for module, each in roles.items()
        if not {"A", "B"} <= each.keys()
        for role, key in each.items()
        if role != "alpha" or module not in others
    ]


def _is_stray(key: str) -> bool:
    return scheme_of(key) == "lone" and kind_of_key(key) != "bundled"


def _peft(key: str) -> bool:
    known = ("lora", "embedding", "dora", "bias")
    return scheme_of(key) == "peft" and (
        kind_of_key(key) in known or key.endswith((".weight", ".bias"))
    )


def _pipeline(key: str) -> bool:
    scheme, kind = scheme_of(key), kind_of_key(key)
    if is_bare(key) or key.startswith(_NO_PIPELINE) or scheme not in ("kohya", "diffusers"):
        return False
    return kind in ("lora", "bias") or (kind == "dora" and not key.endswith(".dora_scale"))


def _model(key: str) -> bool:
    # It is told the prefix, so the names of every component but text encoders are in its reach.
    if is_bare(key) or key.startswith(("text_encoder", "lora_")):
        return False
    return scheme_of(key) in ("diffusers", "lone", "peft") and kind_of_key(key) == "lora"


def _comfy(key: str) -> bool:
    scheme, kind = scheme_of(key), kind_of_key(key)
    if scheme == "diffusers" and (key.startswith("unet.") and _ATTENTION.search(key)):
        return False
    is_known = scheme in ("kohya", "comfy") or (
        scheme == "diffusers" and not key.startswith(_NO_PIPELINE)
    )
    # Those of Mochi have the names of its modules and nothing else.
    is_known |= scheme == "lone" and is_bare(key)
    return is_known and kind not in (None, "bundled", "embedding", "ia3")


def _a1111(key: str) -> bool:
    kind = kind_of_key(key)
    is_known = scheme_of(key) == "kohya" and not is_bare(key)
    return kind == "bundled" or (is_known and kind not in (None, "embedding"))


def _lycoris(key: str) -> bool:
    return scheme_of(key) == "lycoris" and kind_of_key(key) is not None


_LOADERS: Mapping[str, Callable[[str], bool]] = {
    "PEFT": _peft,
    "a pipeline of diffusers": _pipeline,
    "a model of diffusers": _model,
    "ComfyUI": _comfy,
    "A1111": _a1111,
    "LyCORIS": _lycoris,
}
