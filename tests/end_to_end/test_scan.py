"""``loricate scan``: its exit codes, its forms, and what reaches a terminal."""

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.integrity.rules.content_mismatch import ContentMismatch
from loricate.testing.corpora.pickles import call, zip_torch


@pytest.fixture
def clean(tmp_path):
    path = tmp_path / "clean.safetensors"
    save_tensors(path, {"x": np.ones((2, 2), np.float32)})
    return path


@pytest.fixture
def hostile(tmp_path):
    return zip_torch(tmp_path / "bad.pt", call("os", "getcwd"))


@pytest.fixture
def mild(tmp_path):
    path = tmp_path / "mild.safetensors"
    save_tensors(path, {"x": np.ones(2)}, {"note": "https://x.test"})
    return path


def test_exit_codes_are_those_of_the_verdict(clean, hostile, mild, tmp_path) -> None:
    readme = tmp_path / "readme.md"
    readme.write_text("words\n")
    assert run(["scan", str(clean)]) == ExitCode.PASS
    assert run(["scan", str(clean), str(hostile)]) == ExitCode.NEGATIVE
    assert run(["scan", str(mild)]) == ExitCode.PASS
    assert run(["scan", str(mild), "--fail-on", "low"]) == ExitCode.NEGATIVE
    assert run(["scan", str(readme)]) == ExitCode.INCONCLUSIVE
    assert run(["scan", str(tmp_path / "absent")]) == ExitCode.USAGE
    (tmp_path / "base").mkdir()
    no_base = ["--base", str(tmp_path / "base")]
    assert run(["scan", str(clean), *no_base]) == ExitCode.COULD_NOT_RUN
    (tmp_path / "base" / "model.safetensors").write_bytes(b"\xff" * 64)
    assert run(["scan", str(clean), *no_base]) == ExitCode.COULD_NOT_RUN


def test_the_gravest_file_comes_first_and_the_rest_is_counted(clean, hostile, capsys) -> None:
    run(["scan", str(clean), str(hostile)])
    shown = capsys.readouterr().out
    assert shown.index("bad.pt") < shown.index("clean.safetensors")
    assert "fail: 2 of 2 files judged, findings: 1 critical, not verified: 1" in shown


def test_code_beside_weights_is_not_said_to_be_in_order(clean, capsys) -> None:
    (clean.parent / "pipeline.py").write_text("import os\n")
    assert run(["scan", str(clean.parent)]) == ExitCode.PASS
    passed, left = capsys.readouterr().out.split("Not verified")
    assert "clean.safetensors" in passed
    assert "pipeline.py" not in passed
    assert "Python code, which no rule reads" in left
    assert "pass: 1 of 2 files judged" in left


def test_json_says_what_was_found_and_in_which_bytes(hostile, capsys) -> None:
    assert run(["scan", str(hostile), "--json"]) == ExitCode.NEGATIVE
    report = json.loads(capsys.readouterr().out)
    (subject,) = report["subjects"]
    (finding,) = subject["findings"]
    assert (report["verdict"], report["fail_on"]) == ("fail", "high")
    assert (finding["rule"], finding["severity"], finding["where"]) == (
        "pickle",
        "critical",
        "os.getcwd",
    )
    assert len(subject["sha256"]) == 64


def test_sarif_and_junit_go_to_files(hostile, mild, tmp_path, capsys) -> None:
    sarif, junit = tmp_path / "out.sarif", tmp_path / "out.xml"
    files = [str(hostile), str(mild)]
    assert run(["scan", *files, "--sarif", "--out", str(sarif)]) == ExitCode.NEGATIVE
    assert run(["scan", *files, "--junit", "--out", str(junit)]) == ExitCode.NEGATIVE
    assert capsys.readouterr().out == ""
    results = json.loads(sarif.read_text())["runs"][0]["results"]
    assert {(each["ruleId"], each["level"]) for each in results} == {
        ("pickle", "error"),
        ("metadata", "note"),
    }
    suite = ElementTree.parse(junit).getroot().find("testsuite")
    assert suite.get("failures") == "1"
    assert any("low: " in (each.text or "") for each in suite.iter("system-out"))


def test_nothing_in_a_file_reaches_the_terminal_as_it_is(tmp_path, capsys) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"x": np.ones(2)}, {"k\x1b[2J": "\x1b]0;owned\x07"})
    run(["scan", str(path), "--fail-on", "medium"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert r"\x1b[2J" in shown


@pytest.mark.parametrize("form", [None, "--json", "--sarif", "--junit"])
def test_a_name_that_is_no_text_is_shown_in_every_form(form, tmp_path, capfdbinary) -> None:
    for name, content in ((b"a\xff.pkl", call("os", "getcwd")), (b"b\xfe\n.safetensors", b"")):
        (tmp_path / os.fsdecode(name)).write_bytes(content)
    asked = ["scan", str(tmp_path), *([form] if form else [])]
    spelled = "a%FF.pkl" if form == "--sarif" else r"a\udcff.pkl"
    assert run(asked) == ExitCode.NEGATIVE
    assert spelled in capfdbinary.readouterr().out.decode("utf-8")
    assert run([*asked, "--out", str(tmp_path.with_suffix(".out"))]) == ExitCode.NEGATIVE
    assert spelled in tmp_path.with_suffix(".out").read_text(encoding="utf-8")


def test_a_rule_that_breaks_down_is_no_traceback(clean, monkeypatch, capsys) -> None:
    def check(self, subject):
        raise KeyError("a hostile key\x1b[2J")
        yield

    monkeypatch.setattr(ContentMismatch, "check", check)
    assert run(["scan", str(clean)]) == ExitCode.INCONCLUSIVE
    shown = capsys.readouterr().out
    assert "content_mismatch" in shown
    assert "KeyError" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", ["names.safetensors", "text.safetensors", "lines.pkl"])
def test_no_file_takes_half_a_gibibyte_of_memory(name, tmp_path) -> None:
    path, bomb = tmp_path / name, b"cos\nsystem\n(S'id'\ntR."
    match name:
        case "names.safetensors":
            entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            header = json.dumps(dict.fromkeys(map(str, range(300_000)), entry)).encode()
        case "text.safetensors":
            header = (
                b'{"__metadata__": {"k": "' + "\U0001f600".encode() + b"a  b" * 4_900_000 + b'"}}'
            )
        case _:
            path.write_bytes((b"S'" + b"\xff" * 60_000 + b"'\n0") * 1_600 + bomb)
    if path.suffix == ".safetensors":
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    # Not from here: what a process inherits from its parent counts as its own.
    command = [Path(sys.executable).with_name("loricate"), "scan", path, "--json"]
    run_small = [sys.executable, "-c", _MEASURED, *command]
    done = subprocess.run(run_small, capture_output=True, check=False, text=True)
    is_harmless = name == "text.safetensors"
    expected = ExitCode.PASS if is_harmless else ExitCode.NEGATIVE
    assert done.returncode == expected, done.stdout + done.stderr
    assert int(done.stderr.split()[-1]) < 512 * 1024


_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], check=False).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""
