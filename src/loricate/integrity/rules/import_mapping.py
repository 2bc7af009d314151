"""Configs that name code to be imported."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, final

from loricate.integrity._named_code import (
    Entry,
    Named,
    decoded,
    entries_of,
    first_text,
    leads_out,
    target_of,
    targets_in,
)
from loricate.integrity._settings import JSON_OR_HEADER
from loricate.integrity._suffixes import code_in
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import MAX_JSON_BYTES, Content, Subject

__all__ = ["ImportMapping"]

_INDEX = "model_index.json"
_YAML = (".yaml", ".yml")
_ADVICE = "read that code first, and do not load with trust_remote_code"


@final
@dataclass(frozen=True, kw_only=True)
class ImportMapping(Rule):
    """A config that makes a loader import modules outside of an allow-list, and code itself.

    Fires, at any depth of a config, on ``auto_mapping.parent_library`` and ``megatron_core``, which
    PEFT imports; on ``auto_map`` and ``custom_pipelines``, by which transformers runs Python files
    that lie beside the weights or in another repository; on ``_target_`` of Hydra and ``target`` of
    CompVis's configs, also in YAML, whatever its first line says; on tags of YAML that call Python;
    and on a ``weight_map`` that leads out of its folder. Fires on classes of ``model_index.json``
    that come from elsewhere than diffusers and transformers, from a file, or from a folder with
    Python files, which diffusers takes before its own. A config too large to be read is a finding
    too. Code beside weights, be it Python, a script of a shell or a program, is not verified: no
    rule reads it.

    Severity: high; critical for targets known to run code, medium for targets that nobody knows,
    and for large files that have no name of a config. Current loaders ask before they run code of
    strangers; older ones do not.

    Cannot see what the code does, nor what a module of an allowed library can be made to do. YAML
    is searched as text: names that are put together from pieces are not found.

    Args:
        libraries: Packages that may be named.
        pipelines: Modules of diffusers that ``model_index.json`` names without their package.
        targets: Packages and modules that targets may be in.
        max_shown: Findings in one file that are listed one by one.
    """

    applies_to: ClassVar[frozenset[Content]] = JSON_OR_HEADER | {Content.OTHER}

    libraries: tuple[str, ...] = ("diffusers", "transformers", "peft", "lerobot")
    pipelines: tuple[str, ...] = (
        "stable_diffusion",
        "stable_diffusion_safe",
        "stable_diffusion_xl",
        "latent_diffusion",
        "paint_by_example",
        "deepfloyd_if",
        "unclip",
    )

    targets: tuple[str, ...] = (
        *("ldm", "sgm", "cldm", "taming", "lightning", "pytorch_lightning"),
        *("diffusers", "transformers", "peft", "torchvision.transforms"),
        *("torch.nn", "torch.optim", "torch.utils.data"),
    )
    max_shown: int = 20

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each setting that names code, and what code there is."""
        is_safetensors = subject.content is Content.SAFETENSORS
        kind = None if is_safetensors else code_in(subject.path)
        if kind is not None:
            yield self.not_verified(subject, f"{kind}, which no rule reads")
        if not is_safetensors and _is_yaml(subject):
            yield from islice(self._in_yaml(subject), self.max_shown)
        elif kind is not None:
            return
        elif subject.content is Content.JSON and (
            _is_large(subject.path) or (subject.is_config_refused and _is_config(subject.path))
        ):
            yield self._large(subject)
        elif subject.content in JSON_OR_HEADER:
            yield from islice(self._in_config(subject), self.max_shown)

    def _in_yaml(self, subject: Subject) -> Iterator[Finding]:
        if _is_large(subject.path):
            yield self._large(subject)
            return
        for named in targets_in(decoded(subject.path.read_bytes()), self.targets):
            yield self._importing(subject, named, "YAML", where=None)

    def _in_config(self, subject: Subject) -> Iterator[Finding]:
        is_index = subject.path.name == _INDEX
        for entry in entries_of(subject):
            named = self._named(entry)
            if named is None and is_index and entry.table is subject.config:
                named = self._component(subject.path.parent, entry.key, entry.value)
            if named is not None:
                yield self._importing(subject, named, entry.key, where=entry.where)
            if entry.key == "weight_map" and (file := leads_out(entry.value)) is not None:
                yield self.finding(
                    subject,
                    Severity.HIGH,
                    f"weight_map makes loaders open {file!r}, outside of this folder",
                    advice="fetch the folder again from its author; do not load it",
                    where=entry.where,
                )

    def _importing(self, subject: Subject, named: Named, key: str, *, where: str | None) -> Finding:
        message = f"{key} makes loaders import {named.name[:200]!r}"
        return self.finding(subject, named.severity, message, advice=_ADVICE, where=where)

    def _large(self, subject: Subject) -> Finding:
        size = subject.path.stat().st_size
        return self.finding(
            subject,
            Severity.HIGH if _is_config(subject.path) else Severity.MEDIUM,
            f"JSON or YAML of {size} bytes, with more in it than any config has and than is read",
            advice="do not load it; look at what fills it",
            n_bytes=size,
        )

    def _named(self, entry: Entry) -> Named | None:
        name = None
        match entry.key, entry.value:
            case "auto_mapping", {"parent_library": str(library)} if not self._allows(library):
                name = library
            case "megatron_core", str(library) if library != "megatron.core":
                name = library
            case "auto_map" | "custom_pipelines", value:
                name = first_text(value)
            case "_class_name", [file, *_]:
                name = str(file)
        return target_of(entry, self.targets) if name is None else Named(name, Severity.HIGH)

    def _component(self, folder: Path, key: str, value: Any) -> Named | None:
        match value:
            case [str(library), str()] if not key.startswith("_"):
                shadow = _python_in(folder, key)
                known = self._allows(library) or library in self.pipelines
                name = None if known else library
                found = shadow or name
                return None if found is None else Named(found, Severity.HIGH)
        return None

    def _allows(self, library: str) -> bool:
        return library.partition(".")[0] in self.libraries


def _is_yaml(subject: Subject) -> bool:
    # Readers of YAML go by no name, and what is no JSON before it may be a comment to them.
    suffix = subject.path.suffix.lower()
    return suffix in _YAML or (suffix == ".json" and subject.content is Content.OTHER)


def _is_config(path: Path) -> bool:
    return path.name == _INDEX or path.stem.endswith("config")


def _is_large(path: Path) -> bool:
    return path.stat().st_size > MAX_JSON_BYTES


def _python_in(folder: Path, component: str) -> str | None:
    """A Python file in the folder of a component, which loaders take for its module."""
    if Path(component).name != component:
        return None
    files = sorted((folder / component).glob("*.py"))
    return f"{component}/{files[0].name}" if files else None
