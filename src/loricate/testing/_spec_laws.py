"""What every registered spec has to keep."""

import tomllib

from loricate.basics.spec import Spec, from_table, to_toml

__all__ = ["survives_toml"]


def survives_toml(spec: Spec) -> None:
    """Written as TOML and read back, a spec is equal to itself."""
    table = tomllib.loads(to_toml(spec))
    assert from_table(type(spec), table) == spec, f"{spec} came back changed from {table}"
