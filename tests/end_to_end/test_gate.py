"""``loricate gate``: thresholds from flags and TOML, whole intervals, no pass without evidence."""

import importlib
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.recipes.gate import GateSpec, gate
from loricate.records.io import read_record, write_record
from loricate.records.names import NO_ATTACK, STRONGEST, Metrics
from loricate.records.schema import Aggregate
from loricate.testing.records import write_made_up_run

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")


PAIRED = {
    Metrics.DRIFT_REDUCTION: (STRONGEST, 3.1, 2.8, 3.5),
    Metrics.PSNR_LOSS: (NO_ATTACK, 0.34, 0.31, 0.37),
    Metrics.ALIGNMENT_LOSS: (NO_ATTACK, 0.005, 0.002, 0.008),
}


@pytest.fixture
def folder(tmp_path):
    """A run with every piece of evidence, all of it made up."""
    record = write_made_up_run(tmp_path / "run", pictures=0)
    paired = [
        Aggregate(
            subject="hardened",
            surface="pipeline",
            attack=attack,
            objective="worst_case" if attack == STRONGEST else "none",
            epsilon=record.verdict.trained_epsilon if attack == STRONGEST else 0.0,
            metric=metric,
            n=100,
            value=value,
            low=low,
            high=high,
            method="bootstrap",
        )
        for metric, (attack, value, low, high) in PAIRED.items()
    ]
    complete = record.model_copy(update={"aggregates": (*record.aggregates, *paired)})
    write_record(tmp_path / "run", complete)
    return tmp_path / "run"


def found(capsys):
    table = json.loads(capsys.readouterr().out)
    return table["verdict"], {each["rule"]: each["passed"] for each in table["checks"]}


def aggregate_of(folder, metric):
    [found] = [
        each
        for each in read_record(folder).aggregates
        if (each.subject, each.metric, each.attack) == ("hardened", metric, "none")
    ]
    return found


def test_the_floors_of_harden_are_the_default(folder, capsys):
    assert run(["gate", str(folder), "--json"]) == ExitCode.PASS
    verdict, criteria = found(capsys)
    assert (verdict, set(criteria.values())) == ("pass", {True})
    assert len(criteria) == 8


@pytest.mark.parametrize(
    ("flag", "strict", "name"),
    [
        ("--max-psnr-drop", "0.01", "reconstruction_psnr_drop"),
        ("--max-drift", "0.001", "clean_latent_drift"),
        ("--max-alignment-drop", "0.0001", "prompt_alignment_drop"),
        ("--min-robust-gain", "50", "latent_drift_ratio"),
        ("--max-success-ratio", "0.01", "hardened_success_of_base"),
        ("--min-success-over-noise", "1000", "base_success_over_noise"),
    ],
)
def test_each_threshold_decides_its_criterion(folder, flag, strict, name, capsys):
    assert run(["gate", str(folder), flag, strict, "--json"]) == ExitCode.NEGATIVE
    verdict, criteria = found(capsys)
    assert (verdict, criteria.pop(name)) == ("fail", False)
    assert set(criteria.values()) == {True}
    # The other spelling of the field, and a file.
    assert run(["gate", str(folder), flag.replace("-", "_").replace("__", "--", 1), strict]) == 1
    config = folder.parent / "gate.toml"
    config.write_text(f"{flag[2:].replace('-', '_')} = {strict}\n")
    assert run(["gate", str(folder), "--config", str(config)]) == ExitCode.NEGATIVE


def test_whole_intervals_decide(folder, capsys):
    drift = aggregate_of(folder, Metrics.LATENT_DRIFT)
    assert drift.low < drift.value < drift.high
    within = (drift.value + drift.high) / 2
    for threshold, code in ((drift.high, 0), (within, 4), (drift.low, 1)):
        assert run(["gate", str(folder), "--max-drift", repr(threshold)]) == code


def test_missing_evidence_is_no_pass(folder, capsys):
    record = read_record(folder)
    kept = [each for each in record.aggregates if each.metric != Metrics.PSNR_LOSS]
    write_record(folder, record.model_copy(update={"aggregates": tuple(kept)}))
    assert run(["gate", str(folder), "--json"]) == ExitCode.INCONCLUSIVE
    verdict, criteria = found(capsys)
    assert (verdict, criteria["reconstruction_psnr_drop"]) == ("inconclusive", None)
    write_record(folder, record.model_copy(update={"integrity": None}))
    assert run(["gate", str(folder)]) == ExitCode.INCONCLUSIVE
    # A radius that was not measured.
    write_record(folder, record)
    assert run(["gate", str(folder), "--epsilon", "3/255"]) == ExitCode.INCONCLUSIVE


def test_the_verdict_in_the_record_plays_no_part(folder):
    record = read_record(folder)
    verdict = record.verdict.model_copy(update={"status": "pass", "criteria": ()})
    update = {"verdict": verdict, "aggregates": ()}
    write_record(folder, record.model_copy(update=update))
    assert run(["gate", str(folder)]) == ExitCode.INCONCLUSIVE


def test_flags_override_the_file(folder, tmp_path):
    (tmp_path / "gate.toml").write_text('max_drift = 0.0001\nepsilon = "8/255"\n')
    arguments = ["gate", str(folder), "--config", str(tmp_path / "gate.toml")]
    assert run(arguments) == ExitCode.NEGATIVE
    assert run([*arguments, "--max-drift", "0.5"]) == ExitCode.PASS


def test_machines_read_it(folder, tmp_path, capsys):
    flags = ["gate", str(folder / "record.json"), "--max-drift", "0.0001"]
    assert run([*flags, "--junit", "--out", str(tmp_path / "gate.xml")]) == ExitCode.NEGATIVE
    suite = ElementTree.parse(tmp_path / "gate.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("8", "1")
    assert run([*flags, "--sarif"]) == ExitCode.NEGATIVE
    [result] = json.loads(capsys.readouterr().out)["runs"][0]["results"]
    assert (result["ruleId"], result["level"]) == ("clean_latent_drift", "error")


def test_quick_runs_are_marked(folder, capsys):
    write_record(folder, read_record(folder).model_copy(update={"quick": True}))
    assert run(["gate", str(folder)]) == ExitCode.PASS
    assert "quick run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--max-drift", "-1"], 2, "x>=0"),
        (["--max-drift", "nan"], 2, "a number of at least 0"),
        (["--epsilon", "8"], 2, "8/255"),
        (["--config", "wrong.toml"], 2, "max_drift"),
        (["--out", "run"], 2, "is a directory"),
        (["--json", "--out", "no.toml/x.json"], 3, "name another path with --out"),
    ],
)
def test_mistakes_are_named(folder, tmp_path, flags, code, words, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.toml").write_text("max_drfit = 1\n")
    (tmp_path / "no.toml").write_text("")
    assert run(["gate", "run", *flags]) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 3, "a record at"),
        (b"", 2, "expected JSON"),
        (b"{}", 2, "schema_version"),
        (b'{"schema_version": 99}', 3, "upgrade loricate"),
        (b"[" * 10**5, 2, "expected JSON"),
    ],
)
def test_what_is_no_record_is_named(folder, content, code, words, capsys):
    (folder / "record.json").unlink()
    if content is not None:
        (folder / "record.json").write_bytes(content)
    assert run(["gate", str(folder)]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("call", ["read_bytes", "stat"])
def test_a_record_that_cannot_be_read_is_named(folder, monkeypatch, capsys, call):
    real = getattr(Path, call)

    def denied(path, **options):
        if path.name == "record.json":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    # Root may read everything, so permissions themselves prove nothing.
    monkeypatch.setattr(Path, call, denied)
    assert run(["gate", str(folder)]) == 3
    said = capsys.readouterr().err
    assert "record.json" in said
    assert "Permission denied" in said
    assert "Traceback" not in said


def test_python_has_the_same(folder):
    record, verdict = gate(folder, GateSpec(max_drift=0.0001))
    assert (record.kind, verdict.status) == ("harden", "fail")
    assert gate(folder)[1].status == "pass"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 9.0, "high": 3.5, "value": 4.0}, "is none"),
        ({"value": 9.0}, "outside of its interval"),
        ({"value": 2.0}, "outside of its interval"),
        ({"level": 1.5}, "a level of 1.5"),
    ],
)
def test_numbers_that_no_run_leaves_are_refused(folder, change, words, capsys):
    path = folder / "record.json"
    table = json.loads(path.read_text())
    [last] = [each for each in table["aggregates"] if each["metric"] == Metrics.DRIFT_REDUCTION]
    last.update(change)
    path.write_text(json.dumps(table))
    assert run(["gate", str(folder), "--json"]) == ExitCode.COULD_NOT_RUN
    said = capsys.readouterr()
    assert words in said.err
    assert not said.out


def test_a_number_of_samples_below_zero_is_refused(folder, capsys):
    path = folder / "record.json"
    table = json.loads(path.read_text())
    table["aggregates"][0]["n"] = -1
    path.write_text(json.dumps(table))
    assert run(["gate", str(folder)]) in (ExitCode.USAGE, ExitCode.COULD_NOT_RUN)
    assert "n" in capsys.readouterr().err
