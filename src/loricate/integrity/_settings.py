"""Settings of PEFT, transformers and diffusers, from a JSON file or out of a header."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from loricate.adapters.keys import HEADER_KEY
from loricate.adapters.tensors import bounded_json
from loricate.basics.errors import UnsupportedError
from loricate.integrity.subject import Content, Subject

__all__ = ["JSON_OR_HEADER", "Setting", "settings_of"]

JSON_OR_HEADER = frozenset({Content.JSON, Content.SAFETENSORS})
"""Where settings stand. A config beside weights is a subject of its own."""


class Setting(NamedTuple):
    """One setting.

    Args:
        key: Its name, without the component that stands in front of it in a header.
        value: Its value.
        where: Its full name.
    """

    key: str
    value: Any
    where: str


def settings_of(subject: Subject) -> Iterator[Setting]:
    """Outermost settings of a file.

    Raises:
        UnsupportedError: They cannot be read.
    """
    if subject.content is Content.SAFETENSORS:
        for key, value in _header_table(subject).items():
            yield Setting(key.rpartition(".")[2], value, f"{HEADER_KEY}: {key}")
        return
    if subject.config is None:
        raise UnsupportedError("a file that is no JSON object", by="this rule")
    for key, value in subject.config.items():
        yield Setting(key, value, key)


def _header_table(subject: Subject) -> Mapping[str, Any]:
    text = subject.header.stated.get(HEADER_KEY) if subject.header is not None else None
    if text is None:
        return {}
    try:
        table = bounded_json(text)
    except (ValueError, RecursionError):
        table = None
    if not isinstance(table, dict):
        raise UnsupportedError(f"metadata {HEADER_KEY!r} that is no JSON object", by="this rule")
    return table
