"""An Args section, where there is one, names exactly what its function or dataclass takes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_SOURCE = Path(__file__).parents[2] / "src" / "loricate"
_RECEIVERS = {"self", "cls"}

Documented = ast.FunctionDef | ast.ClassDef


def _documented() -> Iterator[tuple[str, Documented]]:
    for path in sorted(_SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, Documented) and not node.name.startswith("_"):
                yield f"{path.relative_to(_SOURCE)}:{node.name}:{node.lineno}", node


def _args_section(node: Documented) -> list[str]:
    pattern = r"^Args:\n((?: +.*\n?|\n)*)"
    section = re.search(pattern, ast.get_docstring(node) or "", re.MULTILINE)
    return re.findall(r"^ {4}(\w+):", section.group(1), re.MULTILINE) if section else []


def _parameters(node: ast.FunctionDef) -> list[str]:
    listed = node.args
    stars = [each for each in (listed.vararg, listed.kwarg) if each]
    named = [*listed.posonlyargs, *listed.args, *listed.kwonlyargs, *stars]
    return sorted({each.arg for each in named} - _RECEIVERS)


def _is_dataclass(node: Documented) -> bool:
    return isinstance(node, ast.ClassDef) and any(
        "dataclass" in ast.unparse(each).partition("(")[0] for each in node.decorator_list
    )


def _fields(node: ast.ClassDef) -> list[str]:
    """Public fields that the constructor takes; a field with init=False is state."""
    lines = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    taken = [line for line in lines if "init=False" not in ast.unparse(line)]
    named = [(ast.unparse(line.target), ast.unparse(line.annotation)) for line in taken]
    return [name for name, hint in named if "ClassVar" not in hint and not name.startswith("_")]


_ALL = dict(_documented())
_DATACLASSES = [name for name, node in _ALL.items() if _is_dataclass(node)]
_FUNCTIONS = [
    name for name, node in _ALL.items() if isinstance(node, ast.FunctionDef) and _args_section(node)
]


@pytest.mark.parametrize("name", _DATACLASSES)
def test_fields_are_documented_in_order(name: str) -> None:
    assert _args_section(_ALL[name]) == _fields(_ALL[name])


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_parameters_are_documented_by_their_names(name: str) -> None:
    assert sorted({*_args_section(_ALL[name])} - _RECEIVERS) == _parameters(_ALL[name])
