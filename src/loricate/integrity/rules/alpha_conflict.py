"""Places that state different scales."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.adapters.formats._peft_config import PEFTConfig, header_config
from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import ShapeError
from loricate.integrity._alpha import alpha_of
from loricate.integrity._keys import PEFT_PREFIX, part_of, role_of, scheme_of
from loricate.integrity._reading import tensors_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["AlphaConflict"]


@final
@dataclass(frozen=True, kw_only=True)
class AlphaConflict(Rule):
    """Places that state the scale of one update and disagree.

    Alpha may stand in a tensor beside the factors, in ``adapter_config.json``, in the header as
    ``lora_adapter_metadata``, and as ``ss_network_alpha``. Loaders read one of them each, so that
    a file can be harmless in one program and a thousand times as strong in another.

    Severity: high where tensor, config and header disagree, and where alpha is not one number,
    which some loaders refuse and others multiply every row by; low for ``ss_network_alpha``, which
    no loader reads.

    Cannot see which of the values was meant, nor conflicts in configs with regular expressions,
    which are not run.

    Args:
        tolerance: Relative difference that rounding to half precision explains.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True

    tolerance: float = 2.0**-8

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for the worst module, one for odd alphas, one for the header of a trainer."""
        file = tensors_of(subject)
        if odd := _odd(file):
            yield self.finding(
                subject,
                Severity.HIGH,
                f"alpha is no single number; {len(odd)} modules have such an alpha",
                advice="do not load it; no trainer writes an alpha of that shape",
                where=odd[0],
                n_modules=len(odd),
            )
        conflicts = [
            (max(scales.values()) - min(scales.values()), name, scales)
            for name, scales in _scales(subject, file)
            if not self._agree(scales)
        ]
        if conflicts:
            _, name, scales = max(conflicts, key=lambda conflict: conflict[:2])
            listed = ", ".join(f"{scale:g} in the {place}" for place, scale in scales.items())
            yield self.finding(
                subject,
                Severity.HIGH,
                f"the scale is {listed}; {len(conflicts)} modules have such a conflict",
                advice="find out which one was trained with, and write it everywhere",
                where=name,
                n_modules=len(conflicts),
                **scales,
            )
        for note in subject.adapter.notes if subject.adapter else ():
            if "ss_network_alpha" in note:
                yield self.finding(
                    subject, Severity.LOW, note, advice="correct the header", where="header"
                )

    def _agree(self, scales: Mapping[str, float]) -> bool:
        least, most = min(scales.values()), max(scales.values())
        return math.isclose(least, most, rel_tol=self.tolerance)


def _scales(subject: Subject, file: TensorFile) -> Iterator[tuple[str, dict[str, float]]]:
    """Modules for which two places or more state a scale."""
    config = subject.config
    stated = None
    if config is not None and config.get("peft_type") == "LORA":
        stated = PEFTConfig.parse(config, subject.path)
    headers: dict[str, PEFTConfig | None] = {}
    for name, keys in _modules(file).items():
        prefix = _prefix(name)
        if prefix not in headers:
            headers[prefix] = header_config(file, prefix)
        module, rank = name.removeprefix(prefix), file.infos[keys["A"]].shape[0]
        places = {"config": stated, "header": headers[prefix]}
        scales = {
            place: each.scale(module, rank) for place, each in places.items() if each is not None
        }
        if "alpha" in keys and (alpha := _stated(file, keys["alpha"])):
            scales["tensor"] = alpha / rank
        if len(scales) > 1:
            yield name, scales


def _modules(file: TensorFile) -> dict[str, dict[str, str]]:
    modules: dict[str, dict[str, str]] = {}
    for key in file:
        if (role := role_of(key)) is not None:
            modules.setdefault(role[0], {})[role[1]] = key
    return {n: keys for n, keys in modules.items() if "A" in keys and _has_rank(file, keys["A"])}


def _has_rank(file: TensorFile, key: str) -> bool:
    # Scalars and factors of rank 0 have no scale; that they are no adapter is said elsewhere.
    shape = file.infos[key].shape
    return len(shape) > 0 and shape[0] > 0


def _prefix(name: str) -> str:
    match scheme_of(name):
        case "peft":
            return PEFT_PREFIX
        case "diffusers":
            return name.partition(".")[0] + "."
    return ""


def _stated(file: TensorFile, key: str) -> float | None:
    try:
        return alpha_of(file, key)
    except ShapeError:
        return None  # a finding of its own


def _odd(file: TensorFile) -> list[str]:
    """Modules of an update whose alpha is not one number."""
    parts = [part for part in map(part_of, file) if part is not None]
    # Layers of models have an alpha too, with nothing of an update beside it.
    updated = {part.module for part in parts if part.role != "alpha"}
    alphas = [part for part in parts if part.role == "alpha" and part.module in updated]
    return [each.module for each in alphas if math.prod(file.infos[each.key].shape) != 1]
