import json
import math
import sys

import pytest

from loricate.cli.helpers import json_text, print_json, print_table, progress_report


def test_a_table_in_a_pipe_is_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    summary = "long " * 60
    print_table(("name", "rank", "what"), [("a[b]", 8, summary), ("longer", 320, "x")])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].strip().split(maxsplit=2) == ["a[b]", "8", summary.strip()]
    assert lines[0].index("rank") + len("rank") == lines[2].index("320") + len("320")


def test_a_table_without_rows_is_its_headings(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "rank"), [], title="Spectra")
    assert capsys.readouterr().out.split() == ["Spectra", "name", "rank"]


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"σ": [1.5, None]})
    assert json.loads(capsys.readouterr().out) == {"σ": [1.5, None]}


def test_numbers_that_json_lacks_become_text() -> None:
    found = json.loads(json_text({"a": [1.5, math.nan], "b": (math.inf, {"c": -math.inf})}))
    assert found == {"a": [1.5, "nan"], "b": ["inf", {"c": "-inf"}]}


def test_no_name_breaks_json() -> None:
    assert json_text("\x9b\ud800").isascii()
    assert json.loads(json_text("\x9b\ud800")) == "\x9b\ud800"


def test_off_a_terminal_a_stage_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_report() as report:
        for done in range(4):
            report("train", done, 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["train: 3 steps", "train: done"]


def test_on_a_terminal_a_stage_is_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_report() as report:
        report("train", 1, 3)
        report("train", 3, 3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "3/3" in err
