import json
from pathlib import Path

import pytest

from loricate.basics import registry
from loricate.cli.main import run

_PGD = '''
from typing import final

__all__ = ["PGD"]


@final
class PGD:
    """Ascend inside a ball.

    Keeps the best iterate.
    """

    steps: Count = 40
    step_size: Length
'''


@pytest.fixture(autouse=True)
def _one_attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "attacks").mkdir()
    (tmp_path / "attacks" / "pgd.py").write_text(_PGD)
    monkeypatch.setattr(registry, "_ROOT", tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: ())


def test_ls_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls"]) == 0
    rows = [line.strip().split(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    assert rows == [["kind", "name", "summary"], ["attacks", "pgd", "Ascend inside a ball."]]


@pytest.mark.parametrize(("arguments", "count"), [([], 1), (["attacks"], 1), (["metrics"], 0)])
def test_ls_of_one_kind(
    capsys: pytest.CaptureFixture[str], arguments: list[str], count: int
) -> None:
    assert run(["ls", "--json", *arguments]) == 0
    entry = {"kind": "attacks", "name": "pgd", "summary": "Ascend inside a ball."}
    assert json.loads(capsys.readouterr().out) == [entry] * count


def test_ls_of_no_kind_is_a_usage_error() -> None:
    assert run(["ls", "atacks"]) == 2


def test_show_tells_docstring_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "attacks", "pgd"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == ["attacks/pgd", "", "Ascend inside a ball.", "", "Keeps the best iterate."]
    assert [line.split() for line in lines[-3:]] == [
        ["parameter", "type", "default"],
        ["steps", "Count", "40"],
        ["step_size", "Length", "required"],
    ]


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "attacks", "pgd", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["name"] == "pgd"
    assert shown["parameters"][1] == {
        "name": "step_size",
        "annotation": "Length",
        "default": None,
    }


def test_show_of_an_unknown_name_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["show", "attacks", "pdg"]) == 2
    assert "did you mean 'pgd'?" in capsys.readouterr().err
