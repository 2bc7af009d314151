"""Updates of modules that the base does not have."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.adapters.formats._kohya_names import underscored
from loricate.adapters.keys import COMPONENT_KEY
from loricate.adapters.tensors import TensorFile
from loricate.integrity._base_model import Base
from loricate.integrity._keys import is_adapter, place_of
from loricate.integrity._reading import fits, tensors_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["ForeignModules"]


@final
@dataclass(frozen=True, kw_only=True)
class ForeignModules(Rule):
    """Modules of an adapter that the base lacks, or whose weight has another shape there.

    Such an adapter is for another model, or carries tensors that some other program takes. Names
    are compared in every spelling, so that it works on files whose names cannot be resolved.

    Severity: medium.

    Cannot see an adapter of another model of the same architecture: that is what digests are for.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True
    needs_base: ClassVar = True

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for all modules of the file."""
        file, base = tensors_of(subject), subject.base
        if base is None or not is_adapter(file):
            return
        modules = _modules(file)
        known = {part: _shapes(base, part) for part in base.components}
        lone = _lone(file, modules, known)
        strange = [
            (place[2], _strangeness(shape, known.get(place[0] or lone, {}), place[1]))
            for place, shape in modules.items()
        ]
        strange = [(name, why) for name, why in strange if why]
        if strange:
            name, why = strange[0]
            yield self.finding(
                subject,
                Severity.MEDIUM,
                f"{name!r} {why}; so do {len(strange) - 1} more of {len(modules)} modules",
                advice="is this its base? If so, ask what these tensors are for",
                where=name,
                n_modules=len(strange),
            )


def _modules(file: TensorFile) -> dict[tuple[str, str, str], tuple[int, ...]]:
    """Shape of the weight of each pair, by component, module and name."""
    sides: dict[tuple[str, str, str], dict[str, tuple[int, ...]]] = {}
    for key, info in file.infos.items():
        if (place := place_of(key)) is not None:
            owner = (place.component, place.module, place.name)
            sides.setdefault(owner, {})[place.role] = info.shape
    return {
        owner: (*shapes["B"][:1], *shapes["A"][1:])
        for owner, shapes in sides.items()
        if "A" in shapes and "B" in shapes and "mid" not in shapes
    }


def _shapes(base: Base, component: str) -> dict[str, tuple[int, ...]]:
    shapes = {name: base.shape(component, name) for name in base.modules(component)}
    return {underscored(name): shape for name, shape in shapes.items() if shape is not None}


def _lone(
    file: TensorFile,
    modules: Mapping[tuple[str, str, str], tuple[int, ...]],
    known: Mapping[str, Mapping[str, tuple[int, ...]]],
) -> str:
    """What names belong to that do not say it."""
    stated = file.metadata.get(COMPONENT_KEY)
    names = {module for _, module, _ in modules}
    return stated or max(known, key=lambda part: len(names & known[part].keys()), default="")


def _strangeness(shape: tuple[int, ...], known: Mapping[str, tuple[int, ...]], module: str) -> str:
    if module not in known:
        return "is no module of the base"
    if not fits(shape, known[module]):
        return f"has shape {shape}, not {known[module]} as in the base"
    return ""
