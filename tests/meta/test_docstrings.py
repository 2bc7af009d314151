"""Fields of a dataclass are documented once, under Args of its class docstring."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[2] / "src" / "loricate"


def _public_classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in sorted(_SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield f"{path.relative_to(_SOURCE)}:{node.name}", node


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each).partition("(")[0] for each in node.decorator_list)


def _fields(node: ast.ClassDef) -> list[str]:
    lines = (line for line in node.body if isinstance(line, ast.AnnAssign))
    named = [(ast.unparse(line.target), ast.unparse(line.annotation)) for line in lines]
    return [name for name, hint in named if "ClassVar" not in hint and not name.startswith("_")]


def _documented(node: ast.ClassDef) -> list[str]:
    section = re.search(r"^Args:\n((?: +.*\n?|\n)*)", ast.get_docstring(node) or "", re.MULTILINE)
    return re.findall(r"^ {4}(\w+):", section.group(1), re.MULTILINE) if section else []


_DATACLASSES = {name: node for name, node in _public_classes() if _is_dataclass(node)}


@pytest.mark.parametrize("name", _DATACLASSES)
def test_args_name_the_fields_in_order(name: str) -> None:
    assert _documented(_DATACLASSES[name]) == _fields(_DATACLASSES[name])
