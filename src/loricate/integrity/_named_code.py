"""Code that configs name, at any depth, and how harmful it is to import it."""

import json
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from loricate.integrity._grades import graded
from loricate.integrity._opcodes import Import
from loricate.integrity._settings import settings_of
from loricate.integrity.finding import Severity
from loricate.integrity.subject import Content, Subject

__all__ = [
    "Entry",
    "Named",
    "decoded",
    "entries_of",
    "first_text",
    "leads_out",
    "target_of",
    "targets_in",
]

_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")
_RUNNERS = {
    *("__builtin__", "builtins", "commands", "ctypes", "importlib", "marshal", "nt", "os"),
    *("pickle", "pip", "posix", "pty", "runpy", "shutil", "subprocess", "sys", "webbrowser"),
}
_KNOWN = sys.stdlib_module_names | _RUNNERS | {"torch"}
# In YAML, a tag, an anchor, the mark of a folded text or a comment may stand before a value.
_BEFORE = r"(?:[!&][^\s]*\s+|[|>][+-]?\d?\s+|#[^\n]*\n\s*)*"
_TARGET = re.compile(
    rf"""(?<![\w.])(_target_|target)["']?\s*:\s*{_BEFORE}["']?([\w.]+|[*$][^\s]*)"""
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))")
_CALLS = re.compile(rf"(?<![\w.])(?:{'|'.join(sorted(_RUNNERS))})(?:\.\w+)+")
_PARAMS = re.compile(r"""(?<![\w.])params["']?\s*:""")
_TAG = re.compile(r"(?:python/|yaml\.org,2002:py)\S{0,99}")
_TAG_BEGINS = re.compile(r"[!<:]\S*$")
_OUTSIDE = re.compile(r"(?:^|[/\\])\.\.(?:[/\\]|$)|^[/\\~]|^[A-Za-z]:|://")


class Entry(NamedTuple):
    """One key in a config.

    Args:
        key: The key.
        value: Its value.
        table: The object that it is a key of.
        where: Its place.
    """

    key: str
    value: Any
    table: Mapping[str, Any]
    where: str


class Named(NamedTuple):
    """Code that is named.

    Args:
        name: Its name.
        severity: How harmful it is to import it.
    """

    name: str
    severity: Severity


def entries_of(subject: Subject) -> Iterator[Entry]:
    """Keys of a config or of one in a header, at any depth, the outermost first.

    Further in, those are left out whose values are numbers, as vocabularies are made of them.

    Args:
        subject: A file of JSON or safetensors.

    Raises:
        UnsupportedError: It cannot be read.
    """
    config = subject.config if subject.content is Content.JSON else None
    pending = deque(
        Entry(key, value, config or {key: value}, where)
        for key, value, where in settings_of(subject)
    )
    while pending:
        entry = pending.popleft()
        yield entry
        pending.extend(_inside(entry.value, entry.where))


def _inside(value: Any, where: str) -> Iterator[Entry]:
    if isinstance(value, dict):
        for key, each in value.items():
            if isinstance(each, str | dict | list):
                yield Entry(key, each, value, f"{where}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            if isinstance(each, dict) or (isinstance(each, list) and any(map(_holds, each))):
                yield Entry("", each, {}, f"{where}[{index}]")


def _holds(value: Any) -> bool:
    return isinstance(value, dict | list)


def first_text(value: Any) -> str | None:
    """First text in a value of JSON, however deep it stands."""
    pending = [value]
    while pending:
        match pending.pop():
            case str(text):
                return text
            case dict() as table:
                pending += [*table.values()][::-1]
            case list() as items:
                pending += items[::-1]
    return None


def target_of(entry: Entry, allowed: tuple[str, ...]) -> Named | None:
    """What ``_target_`` of Hydra or ``target`` of CompVis's configs makes loaders call.

    Args:
        entry: Any key of a config.
        allowed: Packages and modules whose parts may be called.
    """
    key, value, table, _ = entry
    if key not in ("_target_", "target") or not isinstance(value, str):
        return None
    if (severity := _grade(value, allowed)) is None:
        return None
    # A target may be anything; one that is called has parameters, or nothing beside it.
    is_known = severity.level > Severity.MEDIUM.level
    is_called = "params" in table or (is_known and len(table) == 1)
    if key == "_target_" or is_called or value.partition(".")[0] in _RUNNERS:
        return Named(value, severity)
    return None


def targets_in(text: str, allowed: tuple[str, ...]) -> Iterator[Named]:
    """The same in YAML, which is searched as text; and tags by which it calls Python itself.

    Args:
        text: The file.
        allowed: Packages and modules whose parts may be called.
    """
    text = _ESCAPE.sub(lambda escape: chr(int(escape[1] or escape[2], 16)), text)
    table: dict[str, Any] = {"params": {}} if _PARAMS.search(text) else {"": None, "target": None}
    targets = _TARGET.findall(text)
    if any(value.startswith(("*", "$")) for _, value in targets):
        # It stands elsewhere in the file, where it may be anything.
        targets += [("_target_", each) for each in _CALLS.findall(text)]
    for key, value in dict.fromkeys(targets):
        if (named := target_of(Entry(key, value, table, key), allowed)) is not None:
            yield named
    yield from islice(_tags(text), 1)


def _tags(text: str) -> Iterator[Named]:
    for found in _TAG.finditer(text):
        # A look back of fixed length, so that no text is slow to search.
        before = text[max(0, found.start() - 99) : found.start()]
        if _TAG_BEGINS.search(before) or found[0].startswith("yaml"):
            yield Named(found[0], Severity.HIGH)


def _grade(name: str, allowed: tuple[str, ...]) -> Severity | None:
    if not _DOTTED.fullmatch(name):
        return None
    for root in allowed:
        # What a module has imported itself can be reached through it.
        if name.startswith(f"{root}.") and _KNOWN.isdisjoint(name[len(root) :].split(".")):
            return None
    module, _, attribute = name.rpartition(".")
    if Severity.CRITICAL in graded([Import(module, attribute)]).values():
        return Severity.CRITICAL
    parts = name.split(".")
    is_known = parts[0] in _KNOWN or not _RUNNERS.isdisjoint(parts)
    return Severity.HIGH if is_known else Severity.MEDIUM


def leads_out(names: Any) -> str | None:
    """First file in a table of weights that lies elsewhere than beside it."""
    texts = names.values() if isinstance(names, dict) else ()
    return next((each for each in texts if isinstance(each, str) and _OUTSIDE.search(each)), None)


def decoded(content: bytes) -> str:
    """Text in any encoding that JSON and YAML may have."""
    return content.decode(json.detect_encoding(content[:4]), "replace")
