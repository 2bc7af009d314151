"""Every file in a registered folder is an entry: one final class, in __all__, with a summary."""

import ast

import pytest

from loricate.basics import registry

_ROOT = registry._ROOT
_OWN = [
    (kind, path)
    for kind, folder in registry.KINDS.items()
    for path in sorted((_ROOT / folder).glob("[!_]*.py"))
]


def _exported(module: ast.Module) -> list[str]:
    for node in module.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


@pytest.mark.parametrize(("kind", "path"), _OWN, ids=lambda value: getattr(value, "stem", value))
def test_entry_is_well_formed(kind: str, path) -> None:
    module = ast.parse(path.read_text())
    final = [node.name for node in module.body if registry._is_final(node)]
    assert [name for name in final if name in _exported(module)] == final[:1] != []
    assert registry.describe(kind, path.stem).summary.endswith(".")
