"""``loricate harden`` and ``evaluate`` on a tiny pipeline: exit codes, files, resumption."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")

from loricate import models
from loricate.basics.toml import emit
from loricate.cli import helpers  # noqa: F401 - rich moves the global generator when imported
from loricate.cli.main import run
from loricate.records.io import read_record, read_rows
from loricate.records.names import PARTS, Metrics
from loricate.records.schema import RunRecord
from loricate.testing.pipelines import write_tiny_model

_FLAGS = ["--quick", "--steps", "12"]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny-sd"
    return write_tiny_model(folder, n_calibration=12, n_test=6)


@pytest.fixture(scope="session")
def folder(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "harden"
    code = run(["harden", str(model), *_FLAGS, "--out", str(out)])
    # Random weights cannot be hardened much in 12 steps; the verdict has to say so.
    assert code == 1
    return out


@pytest.fixture(scope="session")
def record(folder: Path) -> RunRecord:
    return read_record(folder)


def _numbers(record: RunRecord) -> dict[str, object]:
    """All a record holds but times, paths and versions."""
    document = json.loads(record.model_dump_json())
    document["training"].pop("seconds")
    for key in ("created", "environment"):
        document.pop(key)
    return document


def test_the_user_gets_every_file(folder: Path, record: RunRecord) -> None:
    assert record.outputs == {"adapter": "adapter", "vae": "vae", "config": "config.toml"}
    expected = {
        "README.md": 500,
        "report.html": 50_000,
        "rows.jsonl": 1000,
        "adapter/adapter_config.json": 100,
        "adapter/adapter_model.safetensors": 1000,
        "vae/config.json": 100,
        "vae/diffusion_pytorch_model.safetensors": 10_000,
    }
    sizes = {name: (folder / name).stat().st_size for name in expected}
    assert [name for name, size in expected.items() if sizes[name] < size] == []


def test_the_record_compares_base_hardened_and_control(record: RunRecord) -> None:
    assert (record.kind, record.quick) == ("harden", True)
    subjects = {a.subject for a in record.aggregates}
    assert subjects == {"base", "hardened", "control_plain"}
    attacked = {(a.attack, a.objective) for a in record.aggregates if a.subject == "hardened"}
    assert attacked == {
        ("none", "none"),
        ("random_noise", "none"),
        ("pgd", "latent_shift"),
        ("pgd", "edit_shift"),
        ("strongest", "worst_case"),
    }
    assert {check.level for check in record.checks} <= {"ok", "warning", "error", "skipped"}
    assert len({(check.name, check.subject) for check in record.checks}) == len(record.checks)


def test_the_base_is_untouched_and_merging_is_exact(record: RunRecord) -> None:
    integrity = record.integrity
    assert integrity is not None
    assert integrity.base_digest_before == integrity.base_digest_after
    assert integrity.gain_zero_identical
    assert integrity.merged_max_difference < 1e-5


def test_ranks_fit_the_budget(record: RunRecord) -> None:
    training = record.training
    assert training is not None
    assert 0 < training.parameters_adapter <= 0.1 * training.parameters_target
    assert training.parameters_adapter == sum(row.parameters for row in training.ranks)
    assert [row["step"] for row in training.curves] == [0.0, 10.0, 11.0]


def test_without_a_judge_alignment_is_undecided_and_nothing_else(record: RunRecord) -> None:
    assert Metrics.ALIGNMENT not in {a.metric for a in record.aggregates}
    passed = {criterion.name: criterion.passed for criterion in record.verdict.criteria}
    assert passed["prompt_alignment_drop"] is None
    assert passed["integrity"] is True
    assert passed["latent_drift_ratio"] is False


def test_an_encoder_adapter_leaves_generation_as_it_was(record: RunRecord) -> None:
    found = {a.subject: a.value for a in record.aggregates if a.metric == Metrics.GENERATION_SSIM}
    assert found == {"base": 1.0, "hardened": 1.0, "control_plain": 1.0}


def test_gain_and_cost_have_paired_intervals(record: RunRecord) -> None:
    paired = {a.metric: a for a in record.aggregates if a.metric.endswith(("_reduction", "_loss"))}
    # The tiny model has no judge that reads prompts.
    assert paired.keys() == {Metrics.DRIFT_REDUCTION, Metrics.SUCCESS_REDUCTION, Metrics.PSNR_LOSS}
    assert {a.subject for a in paired.values()} == {"hardened"}
    assert all(a.low <= a.value <= a.high for a in paired.values())


def test_the_judge_is_a_setting(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    judge = models.path() / "judge"
    flags = ["--judge", str(judge), "--out", str(tmp_path), "--dry-run"]
    assert run(["harden", str(model), *flags]) == 0
    assert tomllib.loads(capsys.readouterr().out)["judge"] == str(judge)


def test_rows_are_complete(folder: Path, record: RunRecord) -> None:
    rows = read_rows(folder / "rows.jsonl")
    per_sample = {(a.subject, a.attack, a.objective): a.n for a in record.aggregates}
    for (subject, attack, objective), n in per_sample.items():
        if attack != "strongest":
            found = [
                r
                for r in rows
                if (r.subject, r.attack, r.objective) == (subject, attack, objective)
            ]
            assert [row.sample for row in found] == list(range(n))


def test_a_second_run_in_the_folder_is_refused(
    folder: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(["harden", str(model), *_FLAGS, "--out", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err


def test_resuming_with_other_settings_is_refused(
    folder: Path, model: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(["harden", str(model), "--quick", "--out", str(folder), "--resume"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_flag_of_value_zero_is_a_flag(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(["harden", "--out", str(folder), "--resume", "--seed", "0"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_resuming_a_finished_run_finds_the_same_numbers(
    folder: Path, record: RunRecord, capsys: pytest.CaptureFixture
) -> None:
    before = (folder / "rows.jsonl").read_bytes()
    assert run(["harden", "--out", str(folder), "--resume", "--json"]) == 1
    assert (folder / "rows.jsonl").read_bytes() == before
    assert _numbers(read_record(folder)) == _numbers(record)
    assert json.loads(capsys.readouterr().out) == {
        "verdict": "fail",
        "report": str(folder / "report.html"),
        "record": str(folder / "record.json"),
    }


_KILLED = """
import os, signal, sys
from pathlib import Path
from loricate.defenses import _training
from loricate.recipes.harden import harden, resolve

_training._CHECKPOINT_EVERY_S = 0.0
model, out = Path(sys.argv[1]), Path(sys.argv[2])
for where in (("harden", 5), ("evaluate", 3)):
    def kill(phase, done, total, measured):
        if (phase, done) == where:
            os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if pid == 0:
        harden(resolve(str(model), quick=True, steps=12), out, observe=kill, resume=True)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_run_killed_twice_ends_with_the_same_numbers(
    model: Path, record: RunRecord, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", _KILLED, str(model), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["-9", "-9"]
    assert not (out / "record.json").exists()
    assert len(read_rows(out / "rows.jsonl")) > 0
    # A row that was being written when the run was killed.
    with (out / "rows.jsonl").open("ab") as file:
        file.write(b'{"subject": "base", "surf')
    assert run(["harden", "--out", str(out), "--resume"]) == 1
    assert _numbers(read_record(out)) == _numbers(record)


def test_the_config_of_a_run_repeats_it(folder: Path, record: RunRecord, tmp_path: Path) -> None:
    config = ["--config", str(folder / "config.toml")]
    assert run(["harden", *config, "--out", str(tmp_path / "again")]) == 1
    assert _numbers(read_record(tmp_path / "again")) == _numbers(record)


def test_a_composition_is_measured_part_by_part(
    folder: Path, record: RunRecord, tmp_path: Path
) -> None:
    settings = tomllib.loads((folder / "config.toml").read_text())
    settings |= {"controls": [], "defenses": [{"name": "jpeg", "quality": 50}]}
    config = tmp_path / "composed.toml"
    config.write_text(emit(settings))
    assert run(["harden", "--config", str(config), "--out", str(tmp_path / "composed")]) == 1
    found = read_record(tmp_path / "composed")
    assert {a.subject for a in found.aggregates} == {"base", "hardened", *PARTS}
    drift = {
        a.subject: a.value
        for a in found.aggregates
        if a.metric == Metrics.LATENT_DRIFT and a.attack == "none"
    }
    [alone] = [
        a.value
        for a in record.aggregates
        if (a.subject, a.metric, a.attack) == ("hardened", Metrics.LATENT_DRIFT, "none")
    ]
    # The adapter is the one of the run without preprocessing, and JPEG moves latents by itself.
    assert drift["part_adapter"] == pytest.approx(alone, rel=1e-4)
    assert drift["part_preprocessing"] > 0.0
    assert drift["hardened"] not in (drift["part_adapter"], drift["part_preprocessing"])


def test_an_evaluation_of_the_adapter_agrees(
    folder: Path, model: Path, record: RunRecord, tmp_path: Path
) -> None:
    out = tmp_path / "evaluation"
    adapter = ["--adapter", str(folder / "adapter")]
    assert run(["evaluate", str(model), *adapter, "--size", "quick", "--out", str(out)]) == 1
    found = read_record(out)
    assert found.training is None
    assert found.integrity is not None
    assert found.integrity.holds
    shared = {(a.subject, a.attack, a.objective, a.metric): a.value for a in found.aggregates}
    for a in record.aggregates:
        if a.subject == "base":
            assert shared[a.subject, a.attack, a.objective, a.metric] == a.value
    key = ("hardened", "none", "none", "latent_drift")
    [own] = [
        a.value for a in record.aggregates if (a.subject, a.attack, a.objective, a.metric) == key
    ]
    assert shared[key] == pytest.approx(own, rel=1e-4)


def test_without_an_adapter_an_evaluation_is_not_a_pass(model: Path, tmp_path: Path) -> None:
    flags = ["--size", "quick", "--epsilon", "2/255"]
    assert run(["evaluate", str(model), *flags, "--out", str(tmp_path / "base")]) in (1, 4)
    found = read_record(tmp_path / "base")
    assert {a.subject for a in found.aggregates} == {"base"}
    assert found.verdict.epsilon == 2 / 255


def test_a_dry_run_prints_settings_that_can_be_read_back(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "nothing"
    flags = ["--epsilon", "6/255", "--seed", "3", "--out", str(out), "--dry-run"]
    assert run(["harden", str(model), *_FLAGS, *flags]) == 0
    text = capsys.readouterr().out
    assert not out.exists()
    assert 'epsilon = "6/255"' in text
    (tmp_path / "config.toml").write_text(text)
    flags = ["--config", str(tmp_path / "config.toml"), "--out", str(out), "--dry-run"]
    assert run(["harden", *flags]) == 0
    assert capsys.readouterr().out == text


def test_an_epsilon_beside_a_config_moves_training_and_verdict(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = ["--config", str(folder / "config.toml"), "--out", str(tmp_path)]
    assert run(["harden", *config, "--epsilon", "4/255", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "16/255" not in text
    assert text.count('"4/255"') == 3 + 3  # training, verdict, its battery, three trials


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["/no/such/folder"], 3, "diffusers folder"),
        (["emoji-sdd"], 2, "an embedded model"),
        (["MODEL", "--images", "EMPTY"], 2, "at least ten pictures"),
        (["MODEL", "--config", "WRONG"], 2, "rank_budgett"),
        (["MODEL", "--full", "--quick"], 2, "at most one of"),
        (["EMPTY"], 3, "model_index.json"),
    ],
)
def test_mistakes_cost_neither_traceback_nor_folder(
    arguments: list[str],
    code: int,
    words: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.toml").write_text("[defense]\nrank_budgett = 0.1\n")
    places = {"MODEL": model, "EMPTY": tmp_path / "empty", "WRONG": tmp_path / "wrong.toml"}
    given = [str(places.get(each, each)) for each in arguments]
    assert run(["harden", *given, "--out", str(tmp_path / "out")]) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_an_adapter_for_another_model_is_refused(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in (folder / "adapter").iterdir():
        content = file.read_bytes().replace(b"encoder.conv_in", b"encoder.conv_xx")
        (adapter / file.name).write_bytes(content)
    flags = ["--adapter", str(adapter), "--size", "quick", "--out", str(tmp_path / "out")]
    assert run(["evaluate", str(model), *flags]) == 2
    assert "encoder.conv_xx" in capsys.readouterr().err


def test_pictures_of_the_user_are_split_for_training_and_judging(
    model: Path, tmp_path: Path
) -> None:
    from PIL import Image

    from loricate.recipes._data import calibration_images, held_out_pictures

    for index in range(10):
        levels = np.full((20, 30, 3), 20 * index, dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f"tone_{index}.png")
    (tmp_path / "tone_0.txt").write_text("the darkest\n")
    training = calibration_images(model, tmp_path, 16)
    pictures = held_out_pictures(model, tmp_path, 16)
    assert training.shape == (8, 3, 16, 16)
    assert pictures.images.shape == (2, 3, 16, 16)
    assert pictures.prompts == ("the darkest", "tone 5")
    tones = [round(float(image.mean()) * 255) for image in (*training, *pictures.images)]
    assert sorted(tones) == list(range(0, 200, 20))
