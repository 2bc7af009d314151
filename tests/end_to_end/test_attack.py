"""``loricate attack``: one input, one attack, and files that hold what the numbers say."""

import importlib
import json
import struct
import zlib

import numpy as np
import pytest

pytest.importorskip("torch")

from PIL import Image

from loricate import models
from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.core.text_budgets import edit_distance

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "clean.png"
    with np.load(models.path("emoji-sd") / "images" / "test.npz") as table:
        Image.fromarray(table["images"][3]).save(path)
    return path


@pytest.fixture(scope="module")
def attacked(picture, tmp_path_factory):
    out = tmp_path_factory.mktemp("attack") / "out"
    arguments = ["--epsilon", "16/255", "--attack", "pgd:steps=3", "--prompt", "gemini"]
    assert run(["attack", str(picture), "--out", str(out), *arguments]) == ExitCode.PASS
    return out


def levels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_the_saved_file_keeps_the_budget_and_moves(attacked) -> None:
    delta = levels(attacked / "attacked.png") - levels(attacked / "clean.png")
    assert 0 < np.abs(delta).max() <= 16
    found = json.loads((attacked / "result.json").read_text())
    assert found["size_of_saved_file"] == pytest.approx(np.abs(delta).max() / 255, abs=1e-6)
    assert found["objective_attacked"] > found["objective_clean"]
    assert found["latent_drift"] > 0.1


def test_the_picture_is_the_one_given_where_it_has_the_size_of_the_model(attacked, picture) -> None:
    assert np.array_equal(levels(attacked / "clean.png"), levels(picture))


def test_every_picture_and_the_settings_are_there(attacked) -> None:
    names = {path.name for path in attacked.iterdir()}
    pictures = {"clean", "attacked", "perturbation", "edit_clean", "edit_attacked", "sheet"}
    assert names == {f"{name}.png" for name in pictures} | {"result.json", "config.toml"}
    assert 'name = "pgd"' in (attacked / "config.toml").read_text()


def refused(picture, tmp_path, capsys, *arguments):
    code = run(["attack", str(picture), "--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists(), "something was left behind"
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("mode", "word"), [("L", "gray"), ("RGBA", "transparency"), ("I;16", "16 bits")]
)
def test_pictures_that_are_not_8_bit_rgb_are_refused(mode, word, tmp_path, capsys) -> None:
    path = tmp_path / "odd.png"
    Image.new(mode, (48, 48)).save(path)
    code, printed = refused(path, tmp_path, capsys)
    assert code == ExitCode.COULD_NOT_RUN
    assert word in printed
    assert "convert" in printed


def test_16_bits_a_channel_are_not_cut_off_unasked(tmp_path, capsys) -> None:
    rows = b"".join(b"\0" + bytes(6 * 48) for _ in range(48))
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 48, 48, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path = tmp_path / "deep.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    code, printed = refused(path, tmp_path, capsys)
    assert code == ExitCode.COULD_NOT_RUN
    assert "16 bits" in printed


def test_an_attack_that_is_refused_leaves_no_folder(picture, tmp_path, capsys) -> None:
    code, printed = refused(picture, tmp_path, capsys, "--attack", "poison")
    assert code == ExitCode.COULD_NOT_RUN
    assert "poison" in printed or "learn" in printed


def test_a_file_that_is_no_picture_is_refused(tmp_path, capsys) -> None:
    path = tmp_path / "text.png"
    path.write_text("no picture")
    code, printed = refused(path, tmp_path, capsys)
    assert code == ExitCode.USAGE
    assert "a picture" in printed


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--epsilon", "8"], "255"),
        (["--attack", "pdg"], "'pgd'"),
        (["--attack", "pgd:stesp=3"], "'steps'"),
        (["--attack", "pgd:steps"], "field=value"),
        (["--attack", "pgd:steps=many"], "attack.steps"),
        (["--objective", "psnr"], "objective"),
        (["--defense", "adversarial_lora"], "defense"),
    ],
)
def test_wrong_words_are_refused_by_name(picture, arguments, word, tmp_path, capsys) -> None:
    code, printed = refused(picture, tmp_path, capsys, *arguments)
    assert code == ExitCode.USAGE
    assert word in printed


def test_a_folder_with_files_is_left_alone(picture, tmp_path, capsys) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert run(["attack", str(picture), "--out", str(tmp_path / "out")]) == ExitCode.USAGE
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    assert "new or empty" in capsys.readouterr().err


@pytest.fixture(scope="module")
def attacked_prompt(tmp_path_factory):
    out = tmp_path_factory.mktemp("prompt") / "out"
    arguments = ["--attack", "char_search:n_samples=5", "--out", str(out)]
    assert run(["attack", "red heart", *arguments]) == ExitCode.PASS
    return out


def test_the_attacked_prompt_is_one_edit_away_and_moves_the_encoder(attacked_prompt) -> None:
    found = json.loads((attacked_prompt / "result.json").read_text())
    changed = found["attacked_prompt"]
    assert found["prompt"] == "red heart" != changed
    assert edit_distance("red heart", changed) == 1 == found["changes"]
    assert found["attacked_code_points"] == [f"U+{ord(each):04X}" for each in changed]
    assert found["objective_attacked"] > found["objective_clean"]
    assert found["hidden_state_cosine"] < 0.95


def test_the_pictures_of_both_prompts_are_there_and_differ(attacked_prompt) -> None:
    names = {path.name for path in attacked_prompt.iterdir()}
    assert names == {"clean.png", "attacked.png", "sheet.png", "result.json", "config.toml"}
    assert not np.array_equal(
        *(levels(attacked_prompt / f"{n}.png") for n in ("clean", "attacked"))
    )


@pytest.mark.parametrize(
    ("target", "arguments", "word"),
    [
        ("gone.png", [], "no file"),
        ("red heart", ["--epsilon", "8/255"], "for an image"),
        ("red heart", ["--edits", "1", "--tokens", "2"], "give one"),
        ("red heart", ["--attack", "pgd"], "attack"),
        ("red heart", ["--objective", "latent_shift"], "text encoder"),
        (" ", [], "visible"),
        ("heart " * 90, [], "tokens"),
    ],
)
def test_what_is_no_prompt_is_refused(target, arguments, word, tmp_path, capsys) -> None:
    code, printed = refused(target, tmp_path, capsys, *arguments)
    assert code == ExitCode.USAGE
    assert word in printed


def test_flags_of_prompts_are_refused_for_pictures(picture, tmp_path, capsys) -> None:
    code, printed = refused(picture, tmp_path, capsys, "--edits", "1")
    assert code == ExitCode.USAGE
    assert "--edits is for a prompt" in printed
