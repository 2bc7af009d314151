"""Tables read from TOML and written back; the standard library only reads."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loricate.basics.errors import ConfigError, ConfigProblem

__all__ = ["emit", "load_table", "overlay", "scalar"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def load_table(path: str | Path) -> dict[str, Any]:
    """The table in a TOML file.

    Args:
        path: The file.

    Returns:
        Nested dictionaries, as ``tomllib`` gives them.

    Raises:
        ConfigError: The file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        problem = ConfigProblem(key="", expected="a readable file", got=error.strerror)
    except ValueError as error:
        problem = ConfigProblem(key="", expected="valid TOML", got=str(error))
    raise ConfigError(problem, file=path)


def scalar(text: str) -> object:
    """A TOML value, or the text itself where it is none: ``8``, ``true`` or ``8/255``."""
    try:
        table = tomllib.loads(f"value = {text}")
    except ValueError:
        return text
    return table["value"] if table.keys() == {"value"} else text


def overlay(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A table with some values replaced, such as a file overridden by flags.

    Args:
        table: What to start from.
        changes: Nested like ``table``; ``None`` means "not given" and changes nothing.

    Returns:
        A new table.
    """
    merged = dict(table)
    for key, change in changes.items():
        if isinstance(change, Mapping):
            below = merged.get(key)
            merged[key] = overlay(below if isinstance(below, Mapping) else {}, change)
        elif change is not None:
            merged[key] = change
    return merged


def emit(table: Mapping[str, Any]) -> str:
    """TOML text of a table.

    Args:
        table: Strings, booleans, numbers, lists and nested tables, by string keys.

    Returns:
        Text that ``tomllib`` reads back as the same table.
    """
    return "\n".join(_table_lines(table, ())).strip() + "\n"


def _table_lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    # Plain values come first: below a [header] they would belong to the wrong table.
    sections = {key: value for key, value in table.items() if _is_section(value)}
    for key, value in table.items():
        if key not in sections:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in sections.items():
        header = ".".join(map(_key, (*path, key)))
        tables, brackets = ([value], "[{}]") if isinstance(value, Mapping) else (value, "[[{}]]")
        for each in tables:
            yield ""
            yield brackets.format(header)
            yield from _table_lines(each, (*path, key))


def _is_section(value: Any) -> bool:
    if isinstance(value, Mapping):
        return True
    is_list = isinstance(value, list | tuple) and len(value) > 0
    return is_list and all(isinstance(item, Mapping) for item in value)


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return _string(value)
        case int():
            return str(int(value))
        case float():
            return repr(float(value))
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case Mapping():
            pairs = (f"{_key(key)} = {_value(each)}" for key, each in value.items())
            return f"{{ {', '.join(pairs)} }}"
    raise TypeError(f"TOML has no value for {value!r}")


def _string(text: str) -> str:
    # JSON escapes what TOML wants escaped, all but DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
