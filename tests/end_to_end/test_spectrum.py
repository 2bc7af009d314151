"""``loricate spectrum`` on a model written on the spot, in all its outputs."""

import importlib
import json

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.cli.exits import ExitCode
from loricate.cli.main import run

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")


@pytest.fixture
def model(tmp_path, rng):
    vae = {
        "encoder.conv_in.weight": rng.standard_normal((4, 3, 3, 3)),
        "encoder.conv_in.bias": rng.standard_normal(4),
        "encoder.fc.weight": np.diag([4.0, 2.0, 1.0, 0.0]),
        "encoder.norm.weight": np.ones(4),
    }
    text = {
        "encoder.fc1.weight": rng.standard_normal((5, 6)),
        "embeddings.token_embedding.weight": rng.standard_normal((9, 6)),
    }
    for name, tensors in (("vae", vae), ("text_encoder", text)):
        (tmp_path / "sd" / name).mkdir(parents=True)
        stored = {key: tensor.astype(np.float16) for key, tensor in tensors.items()}
        save_tensors(tmp_path / "sd" / name / "model.safetensors", stored)
    return tmp_path / "sd"


def weights(capsys, *arguments):
    assert run(["spectrum", *map(str, arguments), "--json"]) == ExitCode.PASS
    return json.loads(capsys.readouterr().out)["weights"]


def test_every_linear_and_convolution_is_listed(model, capsys):
    found = {(each["component"], each["module"]): each for each in weights(capsys, model)}
    assert set(found) == {
        ("text_encoder", "encoder.fc1"),
        ("vae", "encoder.conv_in"),
        ("vae", "encoder.fc"),
    }
    assert found["vae", "encoder.conv_in"]["kind"] == "conv"
    assert found["vae", "encoder.conv_in"]["shape"] == [4, 3, 3, 3]


def test_numbers_of_a_known_weight(model, capsys):
    rules = ["--rule", "energy:0.9", "--rule", "fixed:1", "--rule", "numerical"]
    found = weights(capsys, model, "--component", "vae", *rules)
    fc = next(each for each in found if each["module"] == "encoder.fc")
    assert fc["values"] == pytest.approx([4, 2, 1, 0], abs=1e-6)
    assert fc["spectral_norm"] == pytest.approx(4)
    assert fc["stable_rank"] == pytest.approx(21 / 16)
    kept = fc["kept"]
    assert [kept[rule]["rank"] for rule in ("energy:0.9", "fixed:1", "numerical")] == [2, 1, 3]
    for rule, exact in (("energy:0.9", (1 / 21) ** 0.5), ("fixed:1", (5 / 21) ** 0.5)):
        # Certified: never below the truth, and above it by rounding only.
        assert exact <= kept[rule]["relative_error"] <= exact + 1e-5
    assert kept["fixed:1"]["parameter_share"] == 0.5


def test_top_keeps_the_largest_norms(model, capsys):
    every, top = weights(capsys, model), weights(capsys, model, "--top", 2)
    norms = sorted((each["spectral_norm"] for each in every), reverse=True)
    assert [each["spectral_norm"] for each in top] == norms[:2]


def test_table_names_every_rule_and_module(model, capsys):
    assert run(["spectrum", str(model / "vae"), "--rule", "cutoff:0.3"]) == ExitCode.PASS
    out = capsys.readouterr().out
    assert all(word in out for word in ("cutoff:0.3", "encoder.fc", "4 x 3 x 3 x 3"))


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot_is_written_and_repeatable(model, capsys, tmp_path, ending, magic):
    files = [tmp_path / f"{n}.{ending}" for n in range(2)]
    for file in files:
        assert run(["spectrum", str(model), "--plot", str(file), "--json"]) == ExitCode.PASS
    capsys.readouterr()
    assert files[0].read_bytes().startswith(magic)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rule", "enrgy:0.9"], "energy"),
        (["--component", "vea"], "vae"),
        (["--top", "0"], "--top"),
    ],
)
def test_mistakes_are_usage_errors_that_help(model, capsys, arguments, words):
    assert run(["spectrum", str(model), *arguments]) == ExitCode.USAGE
    assert words in capsys.readouterr().err


def test_damaged_weights_could_not_run(model, capsys):
    file = model / "vae" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert run(["spectrum", str(model)]) == ExitCode.COULD_NOT_RUN
    assert "model.safetensors" in capsys.readouterr().err
