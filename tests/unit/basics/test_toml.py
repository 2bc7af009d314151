import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.errors import ConfigError
from loricate.basics.toml import emit, load_table, overlay, scalar

# TOML text is UTF-8, so lone surrogates cannot be written; CR alone is not a line end.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_SCALAR = st.booleans() | st.integers(-(2**63), 2**63 - 1) | _TEXT | st.floats(allow_nan=False)
_VALUE = st.recursive(
    _SCALAR,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(_TEXT, each, max_size=3),
    max_leaves=12,
)
_TABLE = st.dictionaries(_TEXT, _VALUE, max_size=4)


@given(_TABLE)
def test_what_is_emitted_is_read_back(table: dict[str, Any]) -> None:
    assert tomllib.loads(emit(table)) == table


@given(_TABLE)
def test_overlaying_nothing_or_itself_changes_nothing(table: dict[str, Any]) -> None:
    assert overlay(table, {}) == table
    assert overlay(table, table) == table
    assert overlay({}, table) == table


def test_flags_override_the_file_and_absent_flags_do_not() -> None:
    table = {"steps": 10, "seed": 3, "attack": {"name": "pgd", "steps": 5}}
    changed = overlay(table, {"steps": 20, "seed": None, "attack": {"steps": 7}})
    assert changed == {"steps": 20, "seed": 3, "attack": {"name": "pgd", "steps": 7}}
    assert table["steps"] == 10


def test_none_has_no_spelling() -> None:
    with pytest.raises(TypeError, match="None"):
        emit({"a": None})


def test_a_missing_file_and_bad_toml_are_config_errors(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ConfigError) as caught:
        load_table(path)
    assert caught.value.file == str(path)
    path.write_text("a = = 1")
    with pytest.raises(ConfigError) as caught:
        load_table(path)
    assert caught.value.problems[0].expected == "valid TOML"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("0.5", 0.5),
        ("true", True),
        ("8/255", "8/255"),
        ("", ""),
        ("1\nb = 2", "1\nb = 2"),
    ],
)
def test_a_scalar_is_a_toml_value_or_the_text(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)
