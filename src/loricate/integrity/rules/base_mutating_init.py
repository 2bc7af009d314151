"""Initializations that rewrite the base."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from loricate.adapters.keys import PLAIN_INITS
from loricate.integrity._settings import JSON_OR_HEADER, settings_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["BaseMutatingInit"]

_CONFIGS = ("loftq_config", "corda_config", "lora_ga_config")


@final
@dataclass(frozen=True, kw_only=True)
class BaseMutatingInit(Rule):
    """A config whose initialization takes something out of the base weights.

    Fires on ``init_lora_weights`` of ``pissa``, ``olora``, ``corda``, ``loftq``, ``lora_ga`` and
    whatever else is not known to leave the base alone (``gaussian``, ``orthogonal``, ``eva`` and
    ``mica`` do), and on the configs of such initializations. The factors mean something only on a
    base changed in the same way, and unloading the adapter does not bring the base back.

    Severity: high.

    Cannot see that a trainer converted the factors to plain ones and left the config as it was.

    Args:
        plain: Initializations that leave the base alone.

    Source: PEFT 0.21, ``tuners/lora/layer.py``.
    """

    applies_to: ClassVar[frozenset[Content]] = JSON_OR_HEADER

    plain: tuple[str, ...] = (*PLAIN_INITS, "mica")

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each setting."""
        for setting in settings_of(subject):
            is_init = setting.key == "init_lora_weights" and not self._is_plain(setting.value)
            if is_init or (setting.key in _CONFIGS and setting.value):
                yield self.finding(
                    subject,
                    Severity.HIGH,
                    f"{setting.key} of {setting.value!r} changes the base weights",
                    advice="let its trainer save it with path_initial_model_for_weight_conversion",
                    where=setting.where,
                )

    def _is_plain(self, value: object) -> bool:
        is_flag = value is None or isinstance(value, bool)
        return is_flag or (isinstance(value, str) and value.lower() in self.plain)
