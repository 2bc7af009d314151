"""The file name is the key: ``loricate/attacks/pgd.py`` is the attack ``pgd``.

Names and summaries are read from disk, so listing everything imports nothing.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from loricate.basics.errors import ConfigError, ConfigProblem, PrerequisiteError, nearest

__all__ = ["KINDS", "Entry", "Parameter", "describe", "get", "key_of", "names"]

KINDS = {
    "attacks": "attacks",
    "objectives": "objectives",
    "families": "families",
    "metrics": "metrics",
    "defenses": "defenses",
    "formats": "adapters/formats",
    "rules": "integrity/rules",
}
"""Folder of each kind, below the package."""


@dataclass(frozen=True)
class Parameter:
    """One field of an entry, as its source spells it.

    Args:
        name: Field name, and key in a table.
        annotation: Its type.
        default: Its default, or ``None`` where a value is required.
    """

    name: str
    annotation: str
    default: str | None


@dataclass(frozen=True)
class Entry:
    """What an entry says about itself.

    Args:
        kind: One of ``KINDS``.
        name: Its key.
        docstring: The docstring of its class.
        parameters: The fields of its class.
    """

    kind: str
    name: str
    docstring: str
    parameters: tuple[Parameter, ...]

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.docstring.partition("\n")[0]


_ROOT = Path(__file__).parents[1]


def names(kind: str) -> tuple[str, ...]:
    """Keys of a kind: our own by file name, then third parties' as ``dist/name``.

    Args:
        kind: One of ``KINDS``. A kind whose folder does not exist yet is empty.

    Returns:
        Sorted keys, ours first.

    Raises:
        ConfigError: There is no such kind.
    """
    return (*_own(kind), *sorted(_foreign(kind)))


def get(kind: str, name: str) -> type[Any]:
    """The class behind a key; imports its module and no other.

    Args:
        kind: One of ``KINDS``.
        name: A key as ``names`` lists it.

    Returns:
        The final public class of the module.

    Raises:
        ConfigError: Unknown kind or name; lists what exists and suggests the nearest.
        PrerequisiteError: The module needs an extra that is not installed.
    """
    _require_known(kind, name)
    try:
        if name not in _own(kind):
            return _as_class(_foreign(kind)[name].load(), kind, name)
        return _public_class(import_module(_module_name(kind, name)))
    except ModuleNotFoundError as error:
        if missing := PrerequisiteError.from_import(error):
            raise missing from error
        raise


def key_of(cls: type) -> str:
    """The key under which a class is registered; the inverse of ``get``.

    Args:
        cls: A class that ``get`` returns.

    Returns:
        Its file name, or ``dist/name`` for a third party's class.
    """
    if cls.__module__.startswith("loricate."):
        return cls.__module__.rpartition(".")[2]
    address = f"{cls.__module__}:{cls.__qualname__}"
    for kind in KINDS:
        for key, point in _foreign(kind).items():
            if point.value == address:
                return key
    raise LookupError(f"{cls.__qualname__} of module {cls.__module__!r} is not registered")


def describe(kind: str, name: str) -> Entry:
    """What an entry says about itself; our own are read without importing them.

    Args:
        kind: One of ``KINDS``.
        name: A key as ``names`` lists it.

    Returns:
        Its docstring and parameters.

    Raises:
        ConfigError: Unknown kind or name.
    """
    _require_known(kind, name)
    if name not in _own(kind):
        point = _foreign(kind)[name]
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        return Entry(kind, name, f"Provided by {origin}.", ())
    return _parse(kind, name, (_folder(kind) / f"{name}.py").read_text(encoding="utf-8"))


def _folder(kind: str) -> Path:
    if kind not in KINDS:
        raise ConfigError(_unknown("kind", kind, tuple(KINDS)))
    return _ROOT / KINDS[kind]


def _module_name(kind: str, name: str) -> str:
    return ".".join(["loricate", *KINDS[kind].split("/"), name])


def _own(kind: str) -> list[str]:
    return sorted(path.stem for path in _folder(kind).glob("[!_]*.py"))


def _foreign(kind: str) -> dict[str, EntryPoint]:
    points = entry_points(group=f"loricate.{kind}")
    return {f"{point.dist.name}/{point.name}": point for point in points if point.dist}


def _require_known(kind: str, name: str) -> None:
    # Third parties' names cost a walk over all that is installed.
    if name not in _own(kind) and name not in (known := names(kind)):
        raise ConfigError(_unknown(kind, name, known))


def _unknown(key: str, got: str, known: tuple[str, ...]) -> ConfigProblem:
    expected = f"one of {', '.join(known)}" if known else "nothing, as none is registered"
    return ConfigProblem(key=key, expected=expected, got=got, nearest=nearest(got, known))


def _public_class(module: ModuleType) -> type[Any]:
    public = [getattr(module, name) for name in module.__all__]
    final = [cls for cls in public if isinstance(cls, type) and "__final__" in vars(cls)]
    if len(final) != 1:
        raise TypeError(f"{module.__name__}.__all__ must name one @final class, got {final}")
    return final[0]


def _as_class(loaded: object, kind: str, name: str) -> type[Any]:
    if not isinstance(loaded, type):
        raise TypeError(
            f"entry point {name!r} of 'loricate.{kind}' must be a class, got {loaded!r}"
        )
    return loaded


def _parse(kind: str, name: str, code: str) -> Entry:
    module = ast.parse(code)
    public = next(filter(_is_final, module.body), None)
    if not isinstance(public, ast.ClassDef):
        return Entry(kind, name, ast.get_docstring(module) or "", ())
    docstring = ast.get_docstring(public) or ast.get_docstring(module) or ""
    return Entry(kind, name, docstring, tuple(_parameters(public)))


def _is_final(node: ast.stmt) -> bool:
    decorators = node.decorator_list if isinstance(node, ast.ClassDef) else []
    return any(ast.unparse(each) in ("final", "typing.final") for each in decorators)


def _parameters(node: ast.ClassDef) -> Iterator[Parameter]:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            annotation = ast.unparse(line.annotation)
            if not annotation.startswith("ClassVar"):
                default = None if line.value is None else ast.unparse(line.value)
                yield Parameter(line.target.id, annotation, default)
