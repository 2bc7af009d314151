"""Layers that come along whole, as a config says."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.integrity._settings import JSON_OR_HEADER, settings_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["ModulesToSave"]


@final
@dataclass(frozen=True, kw_only=True)
class ModulesToSave(Rule):
    """A config that tells loaders to replace whole layers by those of the adapter.

    Fires on ``modules_to_save`` in ``adapter_config.json`` or in a header, where it names
    anything. What a layer computes is then up to the adapter alone, whatever its rank.

    Severity: medium; the weights themselves are reported by ``full_replace``.

    Cannot see whether the layers are there, nor what they do.
    """

    applies_to: ClassVar[frozenset[Content]] = JSON_OR_HEADER

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding where layers are named."""
        for setting in settings_of(subject):
            if setting.key == "modules_to_save" and setting.value:
                names = setting.value if isinstance(setting.value, list) else [setting.value]
                yield self.finding(
                    subject,
                    Severity.MEDIUM,
                    f"the adapter replaces {len(names)} whole layers, such as {names[0]!r}",
                    advice="compare these layers with those of the base before you load them",
                    where=setting.where,
                    n_layers=len(names),
                )
