"""Old records made new: one function for each step of the schema version."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from loricate.basics.errors import ConfigError, ConfigProblem, UnsupportedError
from loricate.records.schema import SCHEMA_VERSION

__all__ = ["STEPS", "Document", "Step", "migrate"]

Document: TypeAlias = dict[str, Any]
Step: TypeAlias = Callable[[Document], Document]

STEPS: Final[Mapping[int, Step]] = {}
"""From each old version, the step to the next one. Version 1 is the first, so there is none yet."""


def migrate(
    document: Document, *, steps: Mapping[int, Step] = STEPS, target: int = SCHEMA_VERSION
) -> Document:
    """The same record in the newest schema.

    Args:
        document: A parsed ``record.json`` of any version; left unchanged.
        steps: For each version, the function that leads to the next one.
        target: Version to arrive at.

    Returns:
        A document of version ``target``.

    Raises:
        ConfigError: there is no version number.
        UnsupportedError: the version is newer than this package, or no step leads on from it.
    """
    version = document.get("schema_version")
    # bool is an int in Python, and true would read as version 1.
    if not isinstance(version, int) or isinstance(version, bool):
        raise ConfigError(ConfigProblem(key="schema_version", expected="an integer", got=version))
    if version > target:
        raise UnsupportedError(
            f"record schema {version}",
            by=f"this version, which reads up to {target}",
            hint="upgrade loricate",
        )
    while version < target:
        if version not in steps:
            raise UnsupportedError(f"record schema {version}", by="any migration")
        document = {**steps[version](document), "schema_version": version + 1}
        version += 1
    return document
