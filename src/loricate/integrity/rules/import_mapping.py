"""Configs that name code to be imported."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

from loricate.integrity._settings import JSON_OR_HEADER, settings_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["ImportMapping"]


@final
@dataclass(frozen=True, kw_only=True)
class ImportMapping(Rule):
    """A config that makes a loader import modules outside of an allow-list.

    Fires on ``auto_mapping.parent_library`` and ``megatron_core``, which PEFT imports, on
    ``auto_map``, by which transformers runs Python files that lie beside the weights or in another
    repository, and on classes of ``model_index.json`` that come from elsewhere than diffusers and
    transformers, or from a file.

    Severity: high. Current loaders ask before they run code of strangers; older ones do not.

    Cannot see what the code does, nor what a module of an allowed library can be made to do.

    Args:
        libraries: Packages that may be named.
        pipelines: Modules of diffusers that ``model_index.json`` names without their package.
    """

    applies_to: ClassVar[frozenset[Content]] = JSON_OR_HEADER

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

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each setting that names code."""
        is_index = subject.path.name == "model_index.json"
        for key, value, where in settings_of(subject):
            named = self._named(key, value) or (self._component(key, value) if is_index else None)
            if named is not None:
                yield self.finding(
                    subject,
                    Severity.HIGH,
                    f"{key} makes loaders import {named!r}",
                    advice="read that code first, and do not load with trust_remote_code",
                    where=where,
                )

    def _named(self, key: str, value: Any) -> str | None:
        match key, value:
            case "auto_mapping", {"parent_library": str(library)} if not self._allows(library):
                return library
            case "megatron_core", str(library) if library != "megatron.core":
                return library
            case "auto_map", dict() if value:
                return str(next(iter(value.values())))
            case "_class_name", [file, *_]:
                return str(file)
        return None

    def _component(self, key: str, value: Any) -> str | None:
        match value:
            case [str(library), str()] if not key.startswith("_"):
                known = self._allows(library) or library in self.pipelines
                return None if known else library
        return None

    def _allows(self, library: str) -> bool:
        return library.partition(".")[0] in self.libraries
