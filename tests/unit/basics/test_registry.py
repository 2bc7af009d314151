import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import loricate
from loricate.basics import registry
from loricate.basics.errors import ConfigError, PrerequisiteError
from loricate.basics.registry import Parameter
from loricate.basics.spec import Spec, from_table, to_table

_ALPHA = '''
"""Module of alpha."""

from dataclasses import dataclass
from typing import ClassVar, final

from widget_base import Widget

__all__ = ["Alpha"]


@dataclass(frozen=True, kw_only=True)
class _Helper:
    """Not this one."""


@final
@dataclass(frozen=True, kw_only=True)
class Alpha(Widget):
    """First of the widgets.

    More about it.
    """

    constant: ClassVar[int] = 3
    size: int
    steps: int = 2 * 2
'''
_BASE = """
from abc import ABC, abstractmethod
from dataclasses import dataclass

from loricate.basics.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Widget(Spec, ABC):
    registry_kind = "widgets"

    @property
    @abstractmethod
    def area(self): ...
"""
_FOREIGN = """
from dataclasses import dataclass
from typing import final

from widget_base import Widget


@final
@dataclass(frozen=True, kw_only=True)
class Gear(Widget):
    teeth: int = 8
    area = 1
"""


@pytest.fixture(autouse=True)
def _widgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kind of its own: two entries, one broken, one that lacks an extra, one from elsewhere."""
    folder = tmp_path / "widgets"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "_helper.py").touch()
    (folder / "alpha.py").write_text(_ALPHA + "    area = 1\n")
    (folder / "broken.py").write_text('"""No class here."""\n\n__all__ = []\n')
    (folder / "needy.py").write_text("import model_signing_that_is_missing\n")
    (tmp_path / "widget_base.py").write_text(_BASE)
    (tmp_path / "acme.py").write_text(_FOREIGN)
    info = tmp_path / "acme-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[loricate.widgets]\ngear = acme:Gear\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    monkeypatch.setitem(registry.KINDS, "widgets", "widgets")
    monkeypatch.setattr(loricate, "__path__", [*loricate.__path__, str(tmp_path)])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if "widget" in name or name == "acme":
            del sys.modules[name]


def test_names_are_files_and_entry_points_and_nothing_is_imported() -> None:
    assert registry.names("widgets") == ("alpha", "broken", "needy", "acme/gear")
    assert not {"loricate.widgets.alpha", "acme"} & set(sys.modules)


def test_a_kind_without_a_folder_is_empty() -> None:
    assert registry.names("rules") == ()


def test_get_imports_one_module_and_finds_its_final_class() -> None:
    cls = registry.get("widgets", "alpha")
    assert (cls.__name__, cls.__module__) == ("Alpha", "loricate.widgets.alpha")
    assert "loricate.widgets.needy" not in sys.modules


def test_key_of_is_the_inverse_of_get() -> None:
    for name in ("alpha", "acme/gear"):
        assert registry.key_of(registry.get("widgets", name)) == name


def test_a_class_that_is_not_registered_has_no_key() -> None:
    with pytest.raises(LookupError, match="Path"):
        registry.key_of(Path)


def test_description_is_read_from_the_source() -> None:
    entry = registry.describe("widgets", "alpha")
    assert entry.summary == "First of the widgets."
    assert entry.docstring == "First of the widgets.\n\nMore about it."
    assert entry.parameters == (Parameter("size", "int", None), Parameter("steps", "int", "2 * 2"))
    assert "loricate.widgets.alpha" not in sys.modules


def test_a_foreign_entry_names_its_package() -> None:
    assert registry.describe("widgets", "acme/gear").summary == "Provided by acme 1.2."


@pytest.mark.parametrize(
    ("kind", "name", "key", "nearest"),
    [("wigdets", "alpha", "kind", "widgets"), ("widgets", "alfa", "widgets", "alpha")],
)
def test_unknown_words_list_what_exists(kind: str, name: str, key: str, nearest: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.get(kind, name)
    (problem,) = caught.value.problems
    assert (problem.key, problem.nearest) == (key, nearest)
    assert nearest in problem.expected


def test_a_module_without_a_final_class_is_a_mistake_of_its_author() -> None:
    with pytest.raises(TypeError, match="must name one @final class"):
        registry.get("widgets", "broken")


@pytest.mark.parametrize("module", ["torch", "model_signing"])
def test_a_missing_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    (tmp_path / "widgets" / "needy.py").write_text(f"import {module}\n")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PrerequisiteError) as caught:
        registry.get("widgets", "needy")
    assert "pip install" in caught.value.remedy


def test_a_missing_module_that_no_extra_brings_is_passed_on() -> None:
    with pytest.raises(ModuleNotFoundError, match="model_signing_that_is_missing"):
        registry.get("widgets", "needy")


class TestSpecsOfAKind:
    @pytest.fixture
    def widget(self) -> type[Spec]:
        import widget_base

        return widget_base.Widget

    @pytest.mark.parametrize(
        "table", [{"name": "alpha", "size": 1, "steps": 2}, {"name": "acme/gear", "teeth": 3}]
    )
    def test_the_name_picks_the_class(self, widget: type[Spec], table: dict[str, object]) -> None:
        spec = from_table(widget, table)
        assert type(spec) is registry.get("widgets", str(table["name"]))
        assert to_table(spec) == table

    def test_a_concrete_class_needs_no_name(self) -> None:
        cls = registry.get("widgets", "alpha")
        assert from_table(cls, {"size": 1}) == cls(size=1)

    @pytest.mark.parametrize(("given", "nearest"), [("alfa", "alpha"), (None, None), (3, None)])
    def test_a_wrong_name_is_a_problem_of_the_key_name(
        self, widget: type[Spec], given: object, nearest: str | None
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            from_table(widget, {"size": 1} if given is None else {"name": given, "size": 1})
        (problem,) = caught.value.problems
        assert (problem.key, problem.got, problem.nearest) == ("name", given, nearest)

    def test_the_name_of_another_class_is_refused(self) -> None:
        with pytest.raises(ConfigError) as caught:
            from_table(registry.get("widgets", "alpha"), {"name": "acme/gear"})
        assert caught.value.problems[0].expected == "alpha"
