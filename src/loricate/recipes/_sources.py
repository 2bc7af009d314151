"""Adapters that are read: named in every error, and held to the base they name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loricate.adapters.files import AdapterFile, open_adapter
from loricate.adapters.keys import BASE_DIGEST
from loricate.adapters.weights import open_model
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    IntegrityError,
    NumericalError,
    PrerequisiteError,
    ShapeError,
    UnsupportedError,
)
from loricate.integrity.digest import digest, stated_bases

__all__ = ["open_source"]


def open_source(
    path: Path, *, component: str | None, base: Path | None, model: Path | None = None
) -> AdapterFile:
    """The adapter at a path, or its part for one component.

    Args:
        path: File or folder in any form.
        component: Component that is meant, or that of a file that does not say it.
        base: Model whose modules resolve names, whose weights the updates have to fit, and whose
            digest has to be the one the adapter states, if it does.
        model: The same without a digest, where there is no base: a model made of it.

    Raises:
        ConfigError: The adapter does not update that component, or leaves open which digest is
            whose.
        IntegrityError: The adapter names another base.
        LoricateError: What ``open_adapter`` refuses, with the path.
    """
    with _naming(path):
        found = open_adapter(path, component=component, base=base or model)
    if base is not None:
        _require_named(found, base)
    return found


def _require_named(found: AdapterFile, base: Path) -> None:
    stated = stated_bases(found.adapter)
    if BASE_DIGEST in found.adapter.metadata and not stated:
        expected = f"a digest by component, such as {BASE_DIGEST}.{found.adapter.components[0]}"
        got = found.adapter.metadata[BASE_DIGEST]
        raise ConfigError(
            ConfigProblem(key=BASE_DIGEST, expected=expected, got=got), file=found.path
        )
    parts = open_model(base) if stated else {}
    lone = next(iter(parts.values())) if len(parts) == 1 else None
    wrong = []
    for component, expected in stated.items():
        weights = parts.get(component, lone)
        if weights is None or digest(weights) != expected:
            wrong.append(component)
    if wrong:
        what = f"digest of the base {str(base)!r} and the one that {str(found.path)!r} names"
        raise IntegrityError(what, entries=wrong)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Of several sources, an error says which one it is about."""

    def at(where: str | None) -> str:
        return f"{where} of {path}" if where else str(path)

    try:
        yield
    except NumericalError as error:
        raise NumericalError(error.what, where=at(error.where), hint=error.hint) from error
    except ShapeError as error:
        place = at(error.where)
        raise ShapeError(error.expected, error.got, where=place, hint=error.hint) from error
    except UnsupportedError as error:
        what = f"{error.what} in {str(path)!r}"
        raise UnsupportedError(what, by=error.by, hint=error.hint) from error
    except OSError as error:
        missing = f"a readable file {str(error.filename or path)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="check the path and its permissions") from error
