"""NaN and infinity."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from loricate.adapters.formats.peft import CONFIG
from loricate.integrity._reading import tensors_of
from loricate.integrity._settings import JSON_OR_HEADER, settings_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["NonFinite"]

_SCALES = ("lora_alpha", "alpha_pattern")

# Bits that are all set in NaN and infinity alone, and the unsigned integer to look at them.
_BITS = {
    "float64": (np.uint64, 0x7FF0000000000000),
    "float32": (np.uint32, 0x7F800000),
    "float16": (np.uint16, 0x7C00),
    "bfloat16": (np.uint16, 0x7F80),
    "float8_e5m2": (np.uint8, 0x7C),
    "float8_e4m3fn": (np.uint8, 0x7F),  # has no infinity, and one NaN of each sign
}


@final
@dataclass(frozen=True, kw_only=True)
class NonFinite(Rule):
    """Tensors or scales that are NaN or infinite, tensors in any format down to eight bits.

    Fires on every such tensor, and on every alpha of a PEFT config. One NaN turns every picture
    black, and a norm or a spectrum with NaN in it passes every threshold.

    Severity: high.

    Cannot see finite values that overflow once factors are multiplied or rounded to half
    precision.
    """

    applies_to: ClassVar = JSON_OR_HEADER

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for each tensor, and one for each scale of a config."""
        is_weights = subject.content is Content.SAFETENSORS
        if is_weights:
            yield from self._in_tensors(subject)
        if is_weights or subject.path.name == CONFIG:
            yield from self._in_settings(subject)

    def _in_settings(self, subject: Subject) -> Iterator[Finding]:
        for setting in settings_of(subject):
            if setting.key in _SCALES and not _is_finite(setting.value):
                yield self.finding(
                    subject,
                    Severity.HIGH,
                    f"{setting.key} is or holds a number that is NaN or infinite",
                    advice="every weight it scales would be lost; take another copy",
                    where=setting.where,
                )

    def _in_tensors(self, subject: Subject) -> Iterator[Finding]:
        file = tensors_of(subject)
        for key, info in file.infos.items():
            if info.dtype.name not in _BITS or not (count := _n_bad(file[key])):
                continue
            yield self.finding(
                subject,
                Severity.HIGH,
                f"{count} of {file[key].size} values are NaN or infinite",
                advice="its training diverged or the file is damaged; take another copy",
                where=key,
                n_values=count,
                dtype=info.dtype.name,
            )


def _is_finite(value: Any) -> bool:
    """Whether a number is finite, or all of a table of numbers are."""
    numbers = value.values() if isinstance(value, dict) else (value,)
    return all(math.isfinite(x) for x in numbers if isinstance(x, float))


def _n_bad(array: np.ndarray[Any, Any]) -> int:
    unsigned, mask = _BITS[array.dtype.name]
    bits = array.reshape(-1).view(unsigned) & unsigned(mask)
    # The largest is found many times as fast as all are compared.
    return int(np.count_nonzero(bits == mask)) if bits.max(initial=0) == mask else 0
