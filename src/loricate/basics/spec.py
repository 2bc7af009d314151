"""Frozen dataclasses whose fields carry their ranges, and the tables they are read from.

Ranges ride on the field types, so construction in Python and reading from TOML refuse the same
values with the same words::

    @dataclass(frozen=True, kw_only=True)
    class PGD(Spec):
        steps: Count = 40
        step_size: Length | None = None
"""

import dataclasses
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from loricate.basics import registry
from loricate.basics.errors import ConfigError, ConfigProblem, nearest
from loricate.basics.quantities import Quantity, evaluate, parse_pixel_length
from loricate.basics.toml import emit, load_table, scalar

__all__ = [
    "Count",
    "Fraction01",
    "Length",
    "Natural",
    "PixelLength",
    "Radius",
    "Range",
    "Spec",
    "Weight",
    "from_table",
    "from_text",
    "read_spec",
    "to_table",
    "to_toml",
]

S = TypeVar("S", bound="Spec")


@dataclass(frozen=True)
class Range:
    """Which numbers a field accepts; annotate its type with one.

    Args:
        words: The range in words, for messages.
        kind: ``int`` or ``float``; a float also accepts a fraction such as ``"8/255"``.
        lower: Smallest value accepted.
        upper: Largest value accepted.
        above: Whether ``lower`` itself is excluded.
    """

    words: str
    kind: type[int] | type[float]
    lower: float = -math.inf
    upper: float = math.inf
    above: bool = False

    def __call__(self, value: object, *, key: str) -> object:
        """The value as a number of the right kind."""
        number = _integer(value) if self.kind is int else _float(value)
        if number is None or not self._holds(number):
            raise ConfigError(ConfigProblem(key=key, expected=self.words, got=value))
        return number

    def _holds(self, number: float) -> bool:
        starts = number > self.lower if self.above else number >= self.lower
        return starts and number <= self.upper and math.isfinite(number)


Count = Annotated[int, Range("an integer of at least 1", int, lower=1)]
Natural = Annotated[int, Range("an integer of at least 0", int, lower=0)]
Length = Annotated[float, Range("a number above 0", float, lower=0, above=True)]
Radius = Annotated[float, Range("a number of at least 0", float, lower=0)]
Weight = Annotated[float, Range("a number of at least 0", float, lower=0)]
Fraction01 = Annotated[float, Range("a number in [0, 1]", float, lower=0, upper=1)]
PixelLength = Annotated[float, parse_pixel_length]


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A value that checks its own fields.

    Subclasses are dataclasses with ``frozen=True, kw_only=True``. An abstract class whose
    concrete ones live in the registry names their kind in ``registry_kind``: its tables then say
    which one is meant by ``name = "pgd"``.
    """

    registry_kind: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        problems: list[ConfigProblem] = []
        for name, hint in _hints(type(self)).items():
            with _collecting(problems):
                object.__setattr__(self, name, _fit(getattr(self, name), hint, name))
        problems = problems or list(self.inconsistencies())
        if problems:
            raise ConfigError(problems)

    def inconsistencies(self) -> Iterable[ConfigProblem]:
        """Problems between fields that fit one by one; none unless a subclass finds some."""
        return ()


def from_table(cls: type[S], table: Mapping[str, Any], *, file: str | Path | None = None) -> S:
    """The spec a table describes.

    Args:
        cls: What to build; where it is abstract, the table's ``name`` picks the class.
        table: Field names to values, nested specs as nested tables. ``"none"`` unsets a field.
        file: Where the table comes from, for the error.

    Returns:
        A checked instance.

    Raises:
        ConfigError: Unknown, missing or unfitting keys, all of them listed.
    """
    try:
        return _read(cls, table)
    except ConfigError as error:
        raise ConfigError(error.problems, file=file) from None


def read_spec(cls: type[S], path: str | Path) -> S:
    """The spec a TOML file describes.

    Args:
        cls: What to build.
        path: The file.

    Returns:
        A checked instance.

    Raises:
        ConfigError: The file is not TOML, or does not fit ``cls``.
    """
    return from_table(cls, load_table(path), file=path)


def from_text(cls: type[S], text: str, *, key: str = "name") -> S:
    """The spec a short text describes, such as ``pgd:steps=100,n_restarts=2``.

    Args:
        cls: What to build; an abstract class of the registry.
        text: A name, then fields as in TOML; texts need no quotes.
        key: What the text is called in an error.

    Returns:
        A checked instance.

    Raises:
        ConfigError: There is no such name or field, or a value does not fit.
    """
    name, _, rest = text.partition(":")
    table: dict[str, Any] = {"name": name}
    for pair in filter(None, rest.split(",")):
        field, is_set, value = pair.partition("=")
        if not is_set:
            expected = f"NAME or NAME:field=value,... with fields of {name!r}"
            raise ConfigError(ConfigProblem(key=key, expected=expected, got=text))
        table[field.strip()] = scalar(value.strip())
    try:
        return _read(cls, table)
    except ConfigError as error:
        raise ConfigError([problem.under(key) for problem in error.problems]) from None


def to_table(spec: Spec) -> dict[str, Any]:
    """The table that ``from_table`` reads back as an equal spec.

    Args:
        spec: What to write. Fractions keep the text they were given as.

    Returns:
        Plain values, lists and tables; unset fields are left out.
    """
    table: dict[str, Any] = {}
    if spec.registry_kind is not None:
        table["name"] = registry.key_of(type(spec))
    for field in _fields(type(spec)):
        value = getattr(spec, field.name)
        if value is not None:
            table[field.name] = _plain(value)
        elif field.default is not None:
            # TOML has no null, and leaving the key out would bring the default back.
            table[field.name] = _unset(spec, field.name)
    return table


def to_toml(spec: Spec) -> str:
    """TOML text that ``read_spec`` reads back as an equal spec.

    Args:
        spec: What to write.

    Returns:
        The text.
    """
    return emit(to_table(spec))


def _read(cls: type[S], table: Mapping[str, Any]) -> S:
    given = dict(table)
    cls = _pick_class(cls, given)
    fields = {field.name: field for field in _fields(cls)}
    problems = [
        _unknown_key(key, value, fields) for key, value in given.items() if key not in fields
    ]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        with _collecting(problems):
            if name in given:
                values[name] = _fit(given[name], _hints(cls)[name], name)
            elif _is_required(field):
                raise ConfigError(ConfigProblem(key=name, expected="a value", got=None))
    if problems:
        raise ConfigError(problems)
    return cls(**values)


def _pick_class(cls: type[S], given: dict[str, Any]) -> type[S]:
    kind = cls.registry_kind
    if kind is None:
        return cls
    is_abstract = bool(getattr(cls, "__abstractmethods__", ()))
    name = given.pop("name", None if is_abstract else registry.key_of(cls))
    if not isinstance(name, str):
        expected = f"one of {', '.join(registry.names(kind))}"
        raise ConfigError(ConfigProblem(key="name", expected=expected, got=name))
    try:
        picked = registry.get(kind, name)
    except ConfigError as error:
        raise ConfigError(
            [dataclasses.replace(each, key="name") for each in error.problems]
        ) from None
    if not issubclass(picked, cls):
        raise ConfigError(ConfigProblem(key="name", expected=registry.key_of(cls), got=name))
    return picked


def _unknown_key(key: str, value: object, known: Iterable[str]) -> ConfigProblem:
    expected = f"one of the keys {', '.join(known)}"
    return ConfigProblem(key=key, expected=expected, got=value, nearest=nearest(key, known))


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _unset(spec: Spec, name: str) -> str:
    if _fit("none", _hints(type(spec))[name], name) is not None:
        raise ConfigError(ConfigProblem(key=name, expected="a value TOML can express", got=None))
    return "none"


def _plain(value: Any) -> Any:
    match value:
        case Spec():
            return to_table(value)
        case Quantity():
            return value.text
        case Path():
            return str(value)
        case Mapping():
            return {key: _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
    return value


def _fit(value: Any, hint: Any, key: str) -> Any:
    """The value as its type hint wants it, or a ConfigError that names the key."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        return next(check for check in args[1:] if callable(check))(value, key=key)
    if origin in (Union, types.UnionType):
        return _fit_union(value, args, key)
    if origin is Literal:
        return _fit_literal(value, args, key)
    if origin in (tuple, Sequence):
        return _fit_sequence(value, args, key)
    if origin in (dict, Mapping):
        return _fit_mapping(value, args[1], key)
    if isinstance(hint, type):
        return _fit_class(value, hint, key)
    raise TypeError(f"a spec cannot check field {key!r} of type {hint}")


def _fit_union(value: Any, options: tuple[Any, ...], key: str) -> Any:
    problems: list[ConfigProblem] = []
    for option in options:
        with _collecting(problems):
            return _fit(value, option, key)
    if types.NoneType in options and value == "none":
        return None
    telling = [problem for problem in problems if problem.expected != _NOTHING]
    if len(telling) > 1 and all(problem.key == key for problem in telling):
        words = " or ".join(problem.expected for problem in telling)
        telling = [ConfigProblem(key=key, expected=words, got=value)]
    raise ConfigError(telling)


def _fit_literal(value: Any, options: tuple[Any, ...], key: str) -> Any:
    for option in options:
        if type(value) is type(option) and value == option:
            return option
    words = [str(option) for option in options]
    expected = f"one of {', '.join(map(repr, options))}"
    hint = nearest(str(value), words)
    raise ConfigError(ConfigProblem(key=key, expected=expected, got=value, nearest=hint))


def _fit_sequence(value: Any, args: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ConfigError(ConfigProblem(key=key, expected="a list", got=value))
    is_fixed = len(args) > 1 and args[1] is not Ellipsis
    if is_fixed and len(value) != len(args):
        expected = f"a list of {len(args)} values"
        raise ConfigError(ConfigProblem(key=key, expected=expected, got=value))
    hints = args if is_fixed else args[:1] * len(value)
    return tuple(_fit_each(enumerate(value), hints, key))


def _fit_mapping(value: Any, hint: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(ConfigProblem(key=key, expected="a table", got=value))
    return dict(zip(value, _fit_each(value.items(), (hint,) * len(value), key), strict=True))


def _fit_each(items: Iterable[tuple[Any, Any]], hints: tuple[Any, ...], key: str) -> list[Any]:
    problems: list[ConfigProblem] = []
    fitted = []
    for (index, item), hint in zip(items, hints, strict=True):
        with _collecting(problems):
            fitted.append(_fit(item, hint, f"{key}.{index}"))
    if problems:
        raise ConfigError(problems)
    return fitted


def _fit_class(value: Any, cls: type, key: str) -> Any:
    if issubclass(cls, Spec) and isinstance(value, Mapping):
        try:
            return _read(cls, value)
        except ConfigError as error:
            raise ConfigError([problem.under(key) for problem in error.problems]) from None
    convert = _CONVERTERS.get(cls)
    fitted = convert(value) if convert else value
    if not isinstance(fitted, cls):
        expected = _WORDS.get(cls, f"a {cls.__name__}")
        raise ConfigError(ConfigProblem(key=key, expected=expected, got=value))
    return fitted


def _integer(value: object) -> int | None:
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    return int(value) if is_integer else None  # type: ignore[call-overload]


def _float(value: object) -> float | None:
    if isinstance(value, Quantity):
        return value
    if isinstance(value, str):
        return evaluate(value)
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if is_real else None  # type: ignore[arg-type]


def _path(value: object) -> object:
    return Path(value) if isinstance(value, str) else value


_NOTHING = "none"
_CONVERTERS: dict[type, Callable[[object], object]] = {int: _integer, float: _float, Path: _path}
_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    Path: "a path",
    types.NoneType: _NOTHING,
}


@contextmanager
def _collecting(problems: list[ConfigProblem]) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        problems.extend(error.problems)


def _fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in _fields(cls)}
