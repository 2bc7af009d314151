"""``loricate convert``: every form into every other, and everything it refuses."""

import json

import numpy as np
import pytest

from loricate.adapters import tensors as tensor_files
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.cli.exits import ExitCode
from loricate.cli.main import run

ENDINGS = {"peft": "", "diffusers": ".safetensors", "kohya": ".safetensors"}
QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def save(adapter, folder, form):
    path = folder / f"{form}{ENDINGS[form]}"
    save_adapter(adapter, path, form=form)
    return path


def convert(capsys, source, form, out, *flags, expect=ExitCode.PASS):
    """The report, or what was said on stderr."""
    arguments = ["convert", source, "--to", form, "--out", out, *flags, "--json"]
    assert run(list(map(str, arguments))) == expect
    shown = capsys.readouterr()
    return json.loads(shown.out) if expect == ExitCode.PASS else shown.err


def assert_same(adapter, expected, **tolerance):
    assert set(adapter) == set(expected)
    for target, update in expected.items():
        assert adapter[target].weight_shape == update.weight_shape
        np.testing.assert_allclose(adapter[target].dense(), update.dense(), **tolerance)


@pytest.mark.parametrize("before", ENDINGS)
@pytest.mark.parametrize("after", ENDINGS)
def test_every_form_becomes_every_other(lora, tmp_path, capsys, before, after):
    adapter = lora(scale=0.3).only(["unet"])
    source, out = save(adapter, tmp_path, before), tmp_path / f"out{ENDINGS[after]}"
    report = convert(capsys, source, after, out)
    assert report["form"] == after
    assert {(each["component"], each["module"]) for each in report["modules"]} == set(adapter)
    assert report["least_energy"] == 1.0
    assert_same(open_adapter(out).adapter, adapter, rtol=1e-5, atol=1e-6)


def test_all_components_travel_together(lora, tmp_path, capsys):
    adapter, out = lora(), tmp_path / "out.safetensors"
    convert(capsys, save(adapter, tmp_path, "kohya"), "diffusers", out)
    assert_same(open_adapter(out).adapter, adapter, rtol=1e-5, atol=1e-6)


def test_a_peft_folder_takes_one_component(lora, tmp_path, capsys):
    source, out = save(lora(), tmp_path, "diffusers"), tmp_path / "out"
    assert "text_encoder, unet" in convert(capsys, source, "peft", out, expect=ExitCode.USAGE)
    assert not out.exists()
    convert(capsys, source, "peft", out, "--component", "unet")
    assert open_adapter(out).adapter.components == ("unet",)
    words = convert(capsys, source, "peft", out, "--component", "unte", expect=ExitCode.USAGE)
    assert "did you mean 'unet'" in words


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_energy_is_what_the_file_keeps(lora, tmp_path, capsys, dtype):
    adapter = lora(scale=0.3)
    source, out = save(adapter, tmp_path, "diffusers"), tmp_path / "out.safetensors"
    report = convert(capsys, source, "kohya", out, "--dtype", dtype)
    written = open_adapter(out).adapter
    for module in report["modules"]:
        target = Target(module["component"], module["module"])
        exact, kept = (
            each[target].factors.B.astype(np.float64)
            @ each[target].factors.A.astype(np.float64)
            * each[target].factors.scale
            for each in (open_adapter(source).adapter, written)
        )
        lost = np.linalg.norm(exact - kept) ** 2 / np.linalg.norm(exact) ** 2
        assert 0 < lost < 1e-4
        assert 1 - module["retained_energy"] == pytest.approx(lost, rel=1e-6, abs=1e-15)


def test_what_rounding_loses_is_counted(tmp_path, capsys):
    a = np.ones((1, 4), np.float32)
    b = np.array([[1.0], [1e-9], [0.0]], np.float32)
    target = Target("unet", "down_blocks.0.attentions.0.proj_in")
    source = save(Adapter({target: Update.from_factors(a, b)}), tmp_path, "kohya")
    out = tmp_path / "out.safetensors"
    report = convert(capsys, source, "kohya", out, "--dtype", "float16")
    assert report["n_underflow"] == 1
    big = Adapter({target: Update.from_factors(a, b, 1e6)})
    source, out = save(big, tmp_path, "diffusers"), tmp_path / "big.safetensors"
    could_not = ExitCode.COULD_NOT_RUN
    words = convert(capsys, source, "kohya", out, "--dtype", "float16", expect=could_not)
    assert all(word in words for word in (str(target), "float16", "resize --rule numerical"))
    assert not out.exists()


def test_mixed_ranks_are_padded_unless_told_otherwise(lora, tmp_path, capsys, shapes):
    targets = list(shapes)[:2]
    parts = [lora(rank=k, shapes={t: shapes[t]}) for k, t in zip((2, 6), targets, strict=True)]
    adapter = Adapter({**parts[0], **parts[1]})
    source = save(adapter, tmp_path, "diffusers")
    ranks = {}
    for flag in ("--pad", "--no-pad"):
        out = tmp_path / f"out{flag}.safetensors"
        convert(capsys, source, "kohya", out, flag)
        assert_same(open_adapter(out).adapter, adapter, rtol=1e-5, atol=1e-6)
        file = TensorFile(out)
        ranks[flag] = sorted(len(file[name]) for name in file if name.endswith("down.weight"))
    assert ranks == {"--pad": [6, 6], "--no-pad": [2, 6]}


@pytest.fixture
def base(shapes, rng, tmp_path):
    """A model whose weights the adapters fit, in a diffusers folder."""
    for component in {part for part, _ in shapes}:
        stored = {
            f"{module}.weight": rng.standard_normal(shape, np.float32)
            for (part, module), shape in shapes.items()
            if part == component
        }
        (tmp_path / "sd" / component).mkdir(parents=True)
        save_tensors(tmp_path / "sd" / component / "model.safetensors", stored)
    return tmp_path / "sd"


def test_merged_is_the_base_plus_the_update(base, lora, tmp_path, capsys):
    adapter, out = lora(), tmp_path / "merged"
    source = save(adapter, tmp_path, "kohya")
    report = convert(capsys, source, "merged", out, "--base", base)
    assert report["modules"] == len(adapter)
    for (component, module), update in adapter.items():
        before, after = (
            TensorFile(root / component / "model.safetensors")[f"{module}.weight"]
            for root in (base, out)
        )
        np.testing.assert_allclose(after, before + update.dense(), rtol=1e-5, atol=1e-6)
    assert "a new path" in convert(
        capsys, source, "merged", out, "--base", base, expect=ExitCode.USAGE
    )
    new = tmp_path / "new"
    assert "--base" in convert(capsys, source, "merged", new, expect=ExitCode.USAGE)
    assert not new.exists()


def test_a_wrong_base_is_refused(base, lora, tmp_path, capsys, shapes):
    target = next(iter(shapes))
    source = save(lora(shapes={target: (16, 21)}), tmp_path, "diffusers")
    out = tmp_path / "out.safetensors"
    words = convert(capsys, source, "kohya", out, "--base", base, expect=ExitCode.COULD_NOT_RUN)
    assert all(word in words for word in (target[1], "(16, 20)", "(16, 21)"))
    source = save(lora(shapes={("vae", "encoder.conv_in"): (4, 3, 3, 3)}), tmp_path, "diffusers")
    words = convert(capsys, source, "kohya", out, "--base", base, expect=ExitCode.USAGE)
    assert "'vae'" in words
    assert not out.exists()


def test_a_vae_is_not_for_kohya(lora, tmp_path, capsys):
    adapter = lora(shapes={("vae", "encoder.conv_in"): (4, 3, 3, 3)})
    out = tmp_path / "out.safetensors"
    source = save(adapter, tmp_path, "diffusers")
    words = convert(capsys, source, "kohya", out, expect=ExitCode.COULD_NOT_RUN)
    assert "merged" in words
    assert not out.exists()


def listing(folder):
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def test_nothing_but_an_adapter_is_replaced(lora, tmp_path, capsys):
    source = save(lora().only(["unet"]), tmp_path, "peft")
    model = tmp_path / "model.safetensors"
    save_tensors(model, {"conv_in.weight": np.ones((2, 2), np.float32)})
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "README.md").write_text("mine")
    (tmp_path / "text.safetensors").write_text("mine")
    before = listing(tmp_path)
    taken = [
        ("peft", source),
        ("kohya", source / "new.safetensors"),
        ("peft", tmp_path),
        ("kohya", model),
        ("kohya", tmp_path / "text.safetensors"),
        ("peft", tmp_path / "notes"),
    ]
    for form, out in taken:
        words = convert(capsys, source, form, out, expect=ExitCode.USAGE)
        assert str(out) in words
    assert listing(tmp_path) == before
    for form in ENDINGS:
        out = tmp_path / f"new{ENDINGS[form]}"
        convert(capsys, source, form, out)
        convert(capsys, source, form, out)


def test_a_place_that_cannot_be_written_is_named(lora, tmp_path, capsys, monkeypatch):
    source = save(lora(), tmp_path, "kohya")
    (tmp_path / "file").touch()
    before = listing(tmp_path)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    out = tmp_path / "file" / "out.safetensors"
    words = convert(capsys, source, "diffusers", out, expect=ExitCode.COULD_NOT_RUN)
    assert all(word in words for word in ("out.safetensors", "--out"))
    monkeypatch.setattr(tensor_files, "save_file", full)
    for out in (tmp_path / "out.safetensors", tmp_path / "out"):
        words = convert(capsys, source, "diffusers", out, expect=ExitCode.COULD_NOT_RUN)
        assert "No space left" in words
    assert listing(tmp_path) == before


def test_a_missing_folder_is_made(lora, tmp_path, capsys):
    out = tmp_path / "new" / "folder" / "out.safetensors"
    convert(capsys, save(lora(), tmp_path, "kohya"), "diffusers", out)
    assert out.is_file()


def transposed(tensors):
    for side in ("down", "up"):
        name = f"{QUERY}.lora_{side}.weight"
        tensors[name] = np.ascontiguousarray(tensors[name].T)


def unknown_key(tensors):
    tensors["mystery.weight"] = np.ones((2, 2), np.float32)


def unknown_module(tensors):
    for end in ("lora_down.weight", "lora_up.weight"):
        tensors[f"{QUERY}x.{end}"] = tensors[f"{QUERY}.{end}"]


def not_finite(tensors):
    tensors[f"{QUERY}.lora_up.weight"][0, 0] = np.nan


def rank_zero(tensors):
    tensors[f"{QUERY}.lora_down.weight"] = np.empty((0, 20), np.float32)
    tensors[f"{QUERY}.lora_up.weight"] = np.empty((16, 0), np.float32)


def loha(tensors):
    tensors[f"{QUERY}.hada_w1_a"] = np.ones((2, 2), np.float32)


def integers(tensors):
    tensors[f"{QUERY}.lora_up.weight"] = np.ones((16, 4), np.int32)


BAD = {
    transposed: (ExitCode.COULD_NOT_RUN, ["attn1_to_q", "transposed"]),
    unknown_key: (ExitCode.COULD_NOT_RUN, ["mystery"]),
    unknown_module: (ExitCode.USAGE, [f"{QUERY}x", "did you mean"]),
    not_finite: (ExitCode.COULD_NOT_RUN, ["attn1_to_q", "NaN"]),
    rank_zero: (ExitCode.COULD_NOT_RUN, ["attn1_to_q", "rank"]),
    loha: (ExitCode.COULD_NOT_RUN, ["LoHa"]),
    integers: (ExitCode.COULD_NOT_RUN, ["attn1_to_q", "int32"]),
}
COMMANDS = {
    "inspect": [],
    "convert": ["--to", "diffusers", "--out", "{out}"],
    "resize": ["--rule", "rank:2", "--out", "{out}"],
    "combine": ["{good}", "--out", "{out}"],
}


def refuse(capsys, command, source, tmp_path, good):
    before = listing(tmp_path)
    names = {"out": str(tmp_path / "out.safetensors"), "good": str(good)}
    flags = [flag.format(**names) for flag in COMMANDS[command]]
    code = run([command, str(source), *flags])
    assert listing(tmp_path) == before
    return code, capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_a_bad_file_is_refused_by_every_command(lora, tmp_path, capsys, command, spoil):
    good = save(lora(), tmp_path, "kohya")
    file = TensorFile(good)
    tensors = {name: np.array(file[name]) for name in file}
    spoil(tensors)
    source = tmp_path / "bad.safetensors"
    save_tensors(source, tensors)
    expected, words = BAD[spoil]
    code, said = refuse(capsys, command, source, tmp_path, good)
    assert code == expected
    assert all(word in said for word in words), said
    assert "Traceback" not in said


@pytest.mark.parametrize("command", COMMANDS)
def test_damage_and_ambiguity_are_refused_by_every_command(lora, tmp_path, capsys, command):
    good = save(lora(), tmp_path, "kohya")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(good.read_bytes()[:-7])
    code, said = refuse(capsys, command, cut, tmp_path, good)
    assert code == ExitCode.COULD_NOT_RUN
    assert "cut.safetensors" in said
    empty = tmp_path / "empty.safetensors"
    save_tensors(empty, {})
    code, said = refuse(capsys, command, empty, tmp_path, good)
    assert code == ExitCode.COULD_NOT_RUN
    assert "empty" in said
    pair = tmp_path / "pair"
    pair.mkdir()
    for name in ("a", "b"):
        (pair / f"{name}.safetensors").write_bytes(good.read_bytes())
    code, said = refuse(capsys, command, pair, tmp_path, good)
    assert code == ExitCode.USAGE
    assert "a.safetensors" in said
    code, said = refuse(capsys, command, tmp_path / "nowhere", tmp_path, good)
    assert code == ExitCode.USAGE


def test_the_table_shows_energy_and_notes(lora, tmp_path, capsys):
    source = save(lora(), tmp_path, "kohya")
    out = tmp_path / "out"
    assert run(["convert", str(source), "--to", "diffusers", "--out", str(out)]) == ExitCode.PASS
    shown = capsys.readouterr()
    assert all(word in shown.out for word in ("energy kept", "12 x 8 x 3 x 3", "5 modules"))
    assert shown.out.count(" 1.000000") == 5
    assert "convert: done" in shown.err
    half = ["--dtype", "float16", "--out", str(tmp_path / "half")]
    assert run(["convert", str(source), "--to", "diffusers", *half]) == ExitCode.PASS
    assert capsys.readouterr().out.count(" 1 - ") == 5
