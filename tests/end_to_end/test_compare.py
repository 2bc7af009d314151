"""``loricate compare``: tables of several runs, honest about what may not be compared."""

import importlib
import json
import math

import pytest

from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.evaluation.aggregates import aggregate
from loricate.records.io import RowLog, read_record, write_record
from loricate.records.names import Metrics
from loricate.records.schema import SampleRow
from loricate.testing.records import write_made_up_run

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")

EPSILON = 8 / 255


@pytest.fixture
def folders(tmp_path):
    """Two runs; of the same 12 pictures the first leaves 9 broken, the second none of these."""
    for name, broken in (("first", range(9)), ("second", range(9, 10))):
        write_made_up_run(tmp_path / name, pictures=0)
        log = RowLog(tmp_path / name / "rows.jsonl")
        log.extend(_row("hardened", sample, float(sample in broken)) for sample in range(12))
    return tmp_path / "first", tmp_path / "second"


def _row(subject: str, sample: int, broken: float) -> SampleRow:
    return SampleRow(
        subject=subject,
        surface="vae_encoder",
        attack="pgd",
        objective="latent_shift",
        epsilon=EPSILON,
        seed=0,
        sample=sample,
        values=_values(broken),
    )


def _values(broken):
    names = ("latent_drift", "edit_feature_distance", "edit_ssim", "reconstruction_psnr")
    rates = {"edit_broken": broken, "edit_broken_from_base": broken}
    return dict.fromkeys(names, 0.5) | rates


def found(capsys, *arguments):
    assert run(["compare", *map(str, arguments), "--json"]) == ExitCode.PASS
    return json.loads(capsys.readouterr().out)


def test_one_run_shows_every_model_with_the_numbers_of_its_record(folders, capsys) -> None:
    table = found(capsys, folders[0])
    record = read_record(folders[0])
    assert {c["subject"] for c in table["columns"]} == {a.subject for a in record.aggregates}
    shown = {
        (row["attack"], row["objective"], row["epsilon"], row["metric"], value["subject"]): (
            value["value"],
            value["low"],
            value["high"],
            value["n"],
        )
        for row in table["rows"]
        for value in row["values"]
    }
    kept = {
        (a.attack, a.objective, a.epsilon, a.metric, a.subject): (a.value, a.low, a.high, a.n)
        for a in record.aggregates
        if a.metric != Metrics.SSIM
    }
    assert shown == kept


def test_several_runs_show_one_base_and_every_hardened_model(folders, capsys) -> None:
    table = found(capsys, *folders)
    columns = [(c["run"], c["subject"]) for c in table["columns"]]
    assert columns == [("first", "base"), ("first", "hardened"), ("second", "hardened")]


def test_runs_on_the_same_pictures_are_tested_pair_by_pair(folders, capsys) -> None:
    test, drift = found(capsys, *folders)["paired"]
    assert (test["metric"], drift["metric"]) == ("edit_broken", "latent_drift")
    assert (drift["difference"], drift["p_value"]) == (0.0, 1.0)
    models = [{"run": name, "subject": "hardened"} for name in ("first", "second")]
    assert ([test["first"], test["second"]], test["n"]) == (models, 12)
    assert test["difference"] == pytest.approx(8 / 12)
    assert 0 < test["low"] < test["difference"] < test["high"] <= 1
    assert (test["only_first"], test["only_second"]) == (9, 1)
    # Binomial: 2 * (C(10, 0) + C(10, 1)) / 2**10, times two tests.
    assert math.isclose(test["p_value"], 2 * 22 / 1024)


def test_trainings_of_a_defense_are_tested_as_one(tmp_path, capsys) -> None:
    write_made_up_run(tmp_path, pictures=0)
    (tmp_path / "rows.jsonl").unlink()
    broken = {"hardened@0": range(6), "hardened@1": range(0), "jpeg": range(9)}
    rows = [
        _row(name, sample, float(sample in which))
        for name, which in broken.items()
        for sample in range(12)
    ]
    RowLog(tmp_path / "rows.jsonl").extend(rows)
    record = read_record(tmp_path)
    write_record(tmp_path, record.model_copy(update={"aggregates": aggregate(rows, 0)}))
    table = found(capsys, tmp_path)
    assert [c["subject"] for c in table["columns"]] == ["hardened", "jpeg"]
    test, _ = table["paired"]
    assert (test["second"]["subject"], test["n"]) == ("jpeg", 12)
    # Of the nine that break on the other model three hold on one training, and all on the second.
    assert (test["only_first"], test["only_second"]) == (0, 6)
    assert test["difference"] == pytest.approx((0.5 + 0) / 2 - 0.75)
    # Half of the samples apart: with two trainings that may still be chance.
    assert test["low"] < -0.75 < 0 < test["high"]
    assert test["p_value"] > 0.1


def test_runs_on_other_pictures_are_not_tested_and_say_so(folders, capsys) -> None:
    record = read_record(folders[1])
    write_record(folders[1], record.model_copy(update={"config": record.config | {"seed": 7}}))
    table = found(capsys, *folders)
    assert table["paired"] == []
    [difference] = table["differences"]
    assert (difference["key"], difference["values"][1]) == ("seed", 7)


def test_the_text_names_failed_checks_and_quick_runs(folders, capsys) -> None:
    record = read_record(folders[0])
    failed = record.checks[0].model_copy(update={"name": "zero_gradient", "level": "error"})
    write_record(folders[0], record.model_copy(update={"quick": True, "checks": (failed,)}))
    assert run(["compare", *map(str, folders)]) == ExitCode.PASS
    printed = capsys.readouterr()
    assert "Edit attack success rate" in printed.out
    assert "same samples, worst case" in printed.out
    assert "first is a quick run" in printed.err
    assert f"zero_gradient ({failed.subject})" in printed.err


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_plot_is_written(folders, tmp_path, ending, capsys) -> None:
    path = tmp_path / f"plot.{ending}"
    found(capsys, *folders, "--plot", path)
    assert path.read_bytes().startswith(b"\x89PNG" if ending == "png" else b"<?xml")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--metric", "latent_drfit"], "latent_drift"),
        (["--subject", "hardend"], "hardened"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(folders, arguments, word, capsys) -> None:
    assert run(["compare", str(folders[0]), *arguments]) == ExitCode.USAGE
    assert f"did you mean {word!r}" in capsys.readouterr().err.lower()


def test_a_run_named_twice_is_refused(folders, capsys) -> None:
    assert run(["compare", str(folders[0]), str(folders[0])]) == ExitCode.USAGE
    assert "every run once" in capsys.readouterr().err


def test_a_folder_without_a_record_is_refused(tmp_path, capsys) -> None:
    assert run(["compare", str(tmp_path)]) == ExitCode.COULD_NOT_RUN
    assert "record" in capsys.readouterr().err
