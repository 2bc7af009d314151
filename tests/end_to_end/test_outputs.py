"""Where commands write: no input is lost, nothing is mixed up, and a refusal comes early."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.integrity.digest import digest
from loricate.recipes import extract as extraction
from loricate.recipes import scan as scanning
from loricate.recipes.bake import BASE_DIGEST
from loricate.testing.records import write_made_up_run

USAGE, COULD_NOT, NEGATIVE = ExitCode.USAGE, ExitCode.COULD_NOT_RUN, ExitCode.NEGATIVE
FLAGS = {
    "convert": ["lora.safetensors", "--to", "kohya", "--base", "base"],
    "resize": ["lora.safetensors", "--rule", "rank:2", "--to", "kohya", "--base", "base"],
    "combine": ["lora.safetensors", "other", "--to", "kohya", "--base", "base"],
    "extract": ["--base", "base", "--tuned", "tuned", "--rule", "rank:4", "--to", "diffusers"],
    "bake": ["lora.safetensors", "--base", "base"],
    "unbake": ["tuned", "--adapter", "lora.safetensors", "--base", "base"],
}


@pytest.fixture
def here(lora, shapes, rng, tmp_path, monkeypatch):
    """A folder with a base, what the adapter makes of it, the adapter in two forms, and a file."""
    monkeypatch.chdir(tmp_path)
    adapter = lora()
    for component in adapter.components:
        base = {
            f"{module}.weight": rng.standard_normal(shape, np.float32)
            for (part, module), shape in shapes.items()
            if part == component
        }
        updates = adapter.modules(component)
        tuned = {f"{module}.weight": update.dense() for module, update in updates.items()}
        tuned = {name: weight + tuned[name] for name, weight in base.items()}
        for side, tensors in {"base": base, "tuned": tuned}.items():
            (tmp_path / side / component).mkdir(parents=True)
            save_tensors(tmp_path / side / component / "model.safetensors", tensors)
    save_adapter(adapter, tmp_path / "lora.safetensors", form="kohya")
    save_adapter(adapter, tmp_path / "other", form="diffusers")
    (tmp_path / "afile").write_text("mine")
    return tmp_path


def listing(folder):
    return {path: path.is_file() and path.read_bytes() for path in sorted(folder.rglob("*"))}


def refuse(capsys, here, *arguments):
    """Exit code and words of a command that must leave everything as it is."""
    before = listing(here)
    code = run([str(each) for each in arguments])
    assert listing(here) == before
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said


INPUTS = {
    "convert": ["lora.safetensors", "base/new.safetensors", "base/unet/model.safetensors"],
    "resize": ["lora.safetensors", "base/unet/new.safetensors"],
    "combine": ["other/pytorch_lora_weights.safetensors", "base/new.safetensors"],
    "extract": ["base/unet/model.safetensors", "tuned/unet", "base", "base/new", "."],
    "bake": ["lora.safetensors", "base", "base/unet", "lora.safetensors/new", "."],
    "unbake": ["lora.safetensors", "base", "tuned", "base/unet", "tuned/new", "."],
}


@pytest.mark.parametrize(
    ("command", "out"), [(command, out) for command, outs in INPUTS.items() for out in outs]
)
def test_nothing_that_is_read_is_written_over(here, capsys, command, out):
    code, said = refuse(capsys, here, command, *FLAGS[command], "--out", out)
    assert code == USAGE
    assert "outside the source" in said


@pytest.mark.parametrize("command", ["convert", "resize", "combine"])
def test_what_a_link_in_a_source_leads_to_is_read_too(here, capsys, command):
    real = here / "real.safetensors"
    (here / "other" / "pytorch_lora_weights.safetensors").rename(real)
    (here / "other" / "pytorch_lora_weights.safetensors").symlink_to(real)
    flags = ["other", *FLAGS[command][1 if command != "combine" else 2 :]]
    code, said = refuse(capsys, here, command, *flags, "--out", real)
    assert code == USAGE
    assert "outside the source" in said


def test_the_folder_one_is_in_may_be_filled(here, monkeypatch):
    (here / "empty").mkdir()
    monkeypatch.chdir(here / "empty")
    flags = ["../lora.safetensors", "--component", "unet", "--to", "peft", "--out", "."]
    assert run(["convert", *flags]) == ExitCode.PASS
    assert open_adapter(here / "empty").form == "peft"


@pytest.mark.parametrize("command", FLAGS)
def test_a_file_is_no_folder(here, capsys, command):
    out = "afile/new.safetensors"
    code, said = refuse(capsys, here, command, *FLAGS[command], "--out", out)
    assert code == COULD_NOT
    assert all(word in said for word in (out, "--out"))


@pytest.mark.parametrize("command", FLAGS)
def test_no_file_of_another_kind_is_replaced(here, capsys, command):
    code, said = refuse(capsys, here, command, *FLAGS[command], "--out", "afile")
    assert code == USAGE
    assert "'afile'" in said


@pytest.mark.parametrize(
    ("form", "out", "words"),
    [
        ("peft", "new.safetensors", "folder"),
        ("kohya", "new", ".safetensors"),
        ("kohya", "folder.safetensors", "folder.safetensors"),
        ("diffusers", "folder.safetensors", "folder.safetensors"),
        ("peft", "lora2.safetensors", "folder"),
        ("diffusers", "plain", "plain"),
    ],
)
@pytest.mark.parametrize("command", ["convert", "extract"])
def test_files_and_folders_are_not_confused(here, capsys, command, form, out, words):
    (here / "folder.safetensors").mkdir()
    adapter = open_adapter(here / "lora.safetensors").adapter
    save_adapter(adapter, here / "lora2.safetensors", form="kohya")
    (here / "plain").write_bytes((here / "lora2.safetensors").read_bytes())
    flags = [*FLAGS[command], "--to", form, "--component", "unet", "--out", out]
    code, said = refuse(capsys, here, command, *flags)
    assert code == USAGE
    assert words in said


@pytest.mark.parametrize("command", ["bake", "unbake"])
def test_a_populated_folder_is_not_merged_into(here, capsys, command):
    (here / "model" / "unet").mkdir(parents=True)
    (here / "model" / "unet" / "x.safetensors.index.json").write_text("{}")
    code, said = refuse(capsys, here, command, *FLAGS[command], "--out", "model")
    assert code == USAGE
    assert "a new path" in said


def test_a_form_in_place_of_another_leaves_one_adapter(here, capsys):
    flags = ["convert", "lora.safetensors", "--component", "unet", "--out", "new", "--to"]
    for form in ("peft", "diffusers", "peft"):
        assert run([*flags, form]) == ExitCode.PASS
        assert open_adapter(here / "new").form == form
    names = {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    assert {each.name for each in (here / "new").iterdir()} == names


def test_the_card_tells_of_the_adapter_beside_it(here, capsys):
    flags = ["resize", "lora.safetensors", "--component", "unet", "--to", "peft", "--out", "new"]
    for rank in (3, 1):
        assert run([*flags, "--rule", f"rank:{rank}"]) == ExitCode.PASS
        assert f"| {rank} (4) |" in (here / "new" / "README.md").read_text()
    (here / "new" / "README.md").write_text("mine")
    assert run([*flags, "--rule", "rank:2"]) == ExitCode.PASS
    assert (here / "new" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("form", "words"), [("peft", ["--to diffusers", "text_encoder, unet"]), ("kohya", ["'vae'"])]
)
def test_extract_refuses_a_form_before_the_work(here, capsys, monkeypatch, form, words):
    def too_late(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(extraction, "certified_svd", too_late)
    if form == "kohya":
        for side in ("base", "tuned"):
            weights = np.full((4, 3, 3, 3), len(side), np.float32)
            (here / side / "vae").mkdir()
            path = here / side / "vae" / "model.safetensors"
            save_tensors(path, {"encoder.conv_in.weight": weights})
    out = "new" if form == "peft" else "new.safetensors"
    flags = [*FLAGS["extract"], "--to", form, "--out", out]
    code, said = refuse(capsys, here, "extract", *flags)
    assert code in (USAGE, COULD_NOT)
    assert all(word in said for word in ("--component", *words))


def stated(here, **digests):
    """The adapter, with the digest of its base for each component."""
    adapter = open_adapter(here / "lora.safetensors").adapter
    metadata = {f"{BASE_DIGEST}.{part}": text for part, text in digests.items()}
    save_adapter(Adapter(adapter, metadata), here / "stated.safetensors", form="kohya")


def digests(here):
    parts = ("unet", "text_encoder")
    return {part: digest(TensorFile(here / "base" / part / "model.safetensors")) for part in parts}


@pytest.mark.parametrize("command", ["convert", "resize", "combine", "bake", "inspect"])
@pytest.mark.parametrize("wrong", [(), ("unet",), ("text_encoder",)])
def test_the_base_is_the_one_the_adapter_names(here, capsys, command, wrong):
    stated(here, **digests(here) | dict.fromkeys(wrong, "0" * 64))
    _, *flags = FLAGS.get(command, ["", "--base", "base"])
    flags = [command, "stated.safetensors", *flags]
    if command != "inspect":
        flags += ["--out", "new" if command == "bake" else "new.safetensors"]
    if not wrong:
        assert run(flags) == ExitCode.PASS
        return
    code, said = refuse(capsys, here, *flags)
    assert code == NEGATIVE
    assert repr(wrong[0]) in said


def test_one_digest_does_not_name_two_bases(here, capsys):
    adapter = open_adapter(here / "lora.safetensors").adapter
    named = Adapter(adapter, {BASE_DIGEST: "0" * 64})
    save_adapter(named, here / "stated.safetensors", form="kohya")
    flags = ["convert", "stated.safetensors", "--base", "base", "--to", "kohya"]
    code, said = refuse(capsys, here, *flags, "--out", "new.safetensors")
    assert code == USAGE
    assert f"{BASE_DIGEST}.text_encoder" in said


def test_a_sum_names_the_base_of_each_component(here, capsys):
    own = digests(here)
    adapter = open_adapter(here / "other").adapter
    for part in own:
        named = Adapter(adapter.only([part]), {BASE_DIGEST: own[part]})
        save_adapter(named, here / f"{part}.safetensors", form="kohya")
    sources, out = [f"{part}.safetensors" for part in own], ["--out", "sum.safetensors"]
    assert run(["combine", *sources, *out]) == ExitCode.PASS
    metadata = open_adapter(here / "sum.safetensors").adapter.metadata
    assert {f"{BASE_DIGEST}.{part}": text for part, text in own.items()}.items() <= metadata.items()
    assert BASE_DIGEST not in metadata
    # A third source that does not say what it is for.
    assert run(["combine", *sources, "lora.safetensors", *out]) == ExitCode.PASS
    metadata = open_adapter(here / "sum.safetensors").adapter.metadata
    assert not [key for key in metadata if BASE_DIGEST in key]


@pytest.mark.parametrize("command", ["convert", "resize", "inspect", "bake"])
def test_a_base_of_the_wanted_component_is_enough(here, capsys, command):
    flags = {
        "convert": ["--to", "peft", "--out", "new"],
        "resize": ["--rule", "rank:2", "--to", "peft", "--out", "new"],
        "bake": ["--out", "new"],
        "inspect": [],
    }
    only = ["--component", "unet", "--base", "base/unet"]
    assert run([command, "other", *only, *flags[command]]) == ExitCode.PASS


@pytest.mark.parametrize("which", ["both", "base", "tuned"])
def test_eight_bits_are_refused_as_such(here, capsys, which):
    import ml_dtypes

    for side in ("base", "tuned"):
        path = here / side / "unet" / "model.safetensors"
        file = TensorFile(path)
        dtype = ml_dtypes.float8_e4m3fn if which in ("both", side) else np.float32
        save_tensors(path, {name: file[name].astype(dtype) for name in file})
    flags = [*FLAGS["extract"], "--ignore-rest", "--out", "new"]
    code, said = refuse(capsys, here, "extract", *flags)
    assert code == COULD_NOT
    assert all(word in said for word in ("unet/", "float8_e4m3fn", "float16"))


def tiny(a, b, scale=1.0):
    target = Target("unet", "down_blocks.0.attentions.0.proj_in")
    return Adapter({target: Update.from_factors(np.asarray(a), np.asarray(b), scale)})


def test_an_update_does_not_vanish_in_a_cast(here, capsys):
    # Half of the factors is lost, and with it all of the product.
    lost = tiny(np.array([[1e-30, 0], [1.0, 1.0]], np.float32), np.array([[1, 1e-30]], np.float32))
    save_adapter(lost, here / "small", form="peft")
    for command in (["convert", "small", "--to", "peft"], ["resize", "small", "--rule", "rank:2"]):
        code, said = refuse(capsys, here, *command, "--dtype", "float16", "--out", "new")
        assert code == COULD_NOT
        assert all(word in said for word in ("proj_in", "float16", "--dtype float32"))


@pytest.mark.parametrize("gain", ["nan", "inf", "-inf", "1e400", "1e300", "much"])
@pytest.mark.parametrize("has_record", [True, False])
def test_a_gain_that_is_no_number_restores_nothing(here, capsys, gain, has_record):
    assert run(["bake", *FLAGS["bake"], "--out", "baked"]) == ExitCode.PASS
    for path in sorted((here / "baked").rglob("*.safetensors")):
        file = TensorFile(path)
        metadata = {**file.metadata, "loricate.baked.gain": gain}
        save_tensors(path, {name: np.array(file[name]) for name in file}, metadata)
        if not has_record:
            path.with_name(f"{path.name}.unbake").unlink()
    capsys.readouterr()
    flags = ["baked", "--adapter", "lora.safetensors", "--out", "new"]
    code, said = refuse(capsys, here, "unbake", *flags)
    assert code == (USAGE if gain != "1e300" else COULD_NOT)
    assert "gain" in said or "finite" in said


def test_a_norm_beyond_all_numbers_is_an_error_and_no_bug(here, capsys):
    a, b = np.full((1, 4), 1e60), np.full((3, 1), 1e60)
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}
    save_tensors(here / "huge.safetensors", tensors | {f"{name}.alpha": np.array(1e308)})
    code, said = refuse(capsys, here, "inspect", "huge.safetensors", "--json")
    assert code == COULD_NOT
    assert "proj_in" in said


@pytest.mark.parametrize(
    ("device", "expected"), [("cudaa", USAGE), ("meta", COULD_NOT), ("cuda:77", COULD_NOT)]
)
def test_a_device_that_is_not_there(here, capsys, device, expected):
    flags = [*FLAGS["extract"], "--device", device, "--out", "new"]
    code, said = refuse(capsys, here, "extract", *flags)
    assert code == expected
    assert repr(device) in said


@pytest.mark.parametrize("command", [*FLAGS, "inspect"])
def test_a_file_that_cannot_be_read_is_named(here, capsys, monkeypatch, command):
    flags = [*FLAGS.get(command, ["lora.safetensors"])]
    flags += [] if command == "inspect" else ["--out", "new.safetensors"]
    before, read = listing(here), type(here).open

    def denied(path, *arguments, **options):
        if path.suffix == ".safetensors":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *arguments, **options)

    # Root may read everything, so permissions themselves prove nothing.
    monkeypatch.setattr(type(here), "open", denied)
    assert run([command, *flags]) == COULD_NOT
    monkeypatch.undo()
    said = capsys.readouterr().err
    assert ".safetensors" in said
    assert "Permission denied" in said
    assert "Traceback" not in said
    assert listing(here) == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sum_says_which_source_is_at_fault(here, capsys, bad):
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": np.full((1, 4), bad, np.float32)}
    tensors |= {f"{name}.lora_up.weight": np.ones((3, 1), np.float32)}
    save_tensors(here / "bad.safetensors", tensors)
    flags = ["lora.safetensors", "bad.safetensors", "--out", "new.safetensors"]
    assert "bad.safetensors" in refuse(capsys, here, "combine", *flags)[1]
    tensors[f"{name}.lora_down.weight"] = np.empty((0, 4), np.float32)
    tensors[f"{name}.lora_up.weight"] = np.empty((3, 0), np.float32)
    save_tensors(here / "bad.safetensors", tensors)
    assert "bad.safetensors" in refuse(capsys, here, "combine", *flags)[1]


def test_inspect_checks_a_base_even_where_it_can_guess_nothing(here, capsys):
    a, b = np.ones((1, 4), np.float32), np.ones((3, 1), np.float32)
    tensors = {"nowhere.lora_A.weight": a, "nowhere.lora_B.weight": b}
    save_tensors(here / "odd.safetensors", tensors)
    assert run(["inspect", "odd.safetensors"]) == ExitCode.PASS
    capsys.readouterr()
    code, said = refuse(capsys, here, "inspect", "odd.safetensors", "--base", "base/unet")
    assert code == USAGE
    assert "base" in said


def test_a_setting_of_the_process_is_left_alone_until_a_command_runs(here):
    code = """
import os
import loricate.cli.convert, loricate.cli.inspect, loricate.cli.main as main
print("OPENBLAS_NUM_THREADS" in os.environ)
main.run(["resize", "lora.safetensors", "--rule", "rank:1", "--out", "new.safetensors"])
print(os.environ["OPENBLAS_NUM_THREADS"])
"""
    variables = {key: text for key, text in os.environ.items() if "NUM_THREADS" not in key}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=variables
    )
    words = done.stdout.splitlines()
    assert (words[0], words[-1]) == ("False", "1")


JUDGES = {
    "scan": ["scan", "model", "--base", "base"],
    "scan-file": ["scan", "model/adapter_model.safetensors"],
    "verify": ["verify", "run", "--key", "trusted.pub", "--base", "base"],
    "gate": ["gate", "run/record.json", "--config", "gate.toml"],
    "compare": ["compare", "run"],
    "spectrum": ["spectrum", "base", "--component", "unet"],
}
READ = {
    "scan": ["model", "model/new.json", "model/adapter_config.json", "base/unet/model.safetensors"],
    "scan-file": ["model/adapter_model.safetensors", "model/adapter_config.json"],
    "verify": ["run/record.json", "run/new.json", "trusted.pub", "base/unet/model.safetensors"],
    "gate": ["run/record.json", "run/new.json", "gate.toml"],
    "compare": ["run/record.json", "run/rows.jsonl"],
    "spectrum": ["base/unet/model.safetensors", "base/new.png"],
}


def writing(judge, out):
    return [*JUDGES[judge], "--plot" if judge in ("compare", "spectrum") else "--out", str(out)]


@pytest.fixture
def judged(here):
    """What commands that judge read: an adapter, a run, a key and thresholds."""
    write_made_up_run(here / "run", pictures=0)
    adapter = open_adapter(here / "lora.safetensors").adapter
    save_adapter(adapter.only(["unet"]), here / "model", form="peft")
    (here / "trusted.pub").write_text("a key")
    (here / "gate.toml").write_text("max_drift = 0.5")
    return here


@pytest.mark.parametrize(("judge", "out"), [(key, out) for key in READ for out in READ[key]])
def test_a_report_is_not_written_over_what_it_is_about(judged, capsys, judge, out):
    code, said = refuse(capsys, judged, *writing(judge, out))
    assert code == USAGE
    assert out in said


@pytest.mark.parametrize("link", [os.link, os.symlink])
@pytest.mark.parametrize("judge", ["scan", "verify", "gate"])
def test_another_name_of_what_is_read_is_no_place_either(judged, capsys, judge, link):
    read = {"scan": "model/adapter_config.json"}.get(judge, "run/record.json")
    link(judged / read, judged / "other.json")
    assert refuse(capsys, judged, *writing(judge, "other.json"))[0] == USAGE
    (judged / "other.json").unlink()
    # A link in the folder to a file outside would be lost, or is part of what is judged.
    (judged / "outside.json").write_text("mine")
    folder = (judged / read).parent
    link(judged / "outside.json", folder / "linked.json")
    assert refuse(capsys, judged, *writing(judge, "outside.json"))[0] == USAGE
    assert refuse(capsys, judged, *writing(judge, folder / "linked.json"))[0] == USAGE


@pytest.mark.parametrize("judge", ["scan", "gate"])
def test_a_pipe_is_written_into_and_stays(judged, judge):
    os.mkfifo(judged / "pipe")
    (judged / "link").symlink_to(judged / "pipe")
    with ThreadPoolExecutor(1) as pool:
        for name in ("pipe", "link"):
            read = pool.submit((judged / "pipe").read_text)
            assert run(writing(judge, name)) in (0, 1, 4)
            assert "verdict" in json.loads(read.result())
            assert (judged / "pipe").is_fifo()
    assert (judged / "link").is_symlink()


@pytest.mark.parametrize("judge", ["scan", "gate"])
def test_a_link_is_followed_and_a_file_replaced_in_one_step(judged, judge, monkeypatch):
    for name in ("old.json", "missing.json"):
        (judged / "link.json").unlink(missing_ok=True)
        (judged / "link.json").symlink_to(judged / name)
        (judged / "old.json").write_text("old")
        assert run(writing(judge, "link.json")) in (0, 1, 4)
        assert (judged / "link.json").is_symlink()
        assert "verdict" in json.loads((judged / name).read_text())

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = listing(judged)
    assert run(writing(judge, "old.json")) == COULD_NOT
    assert listing(judged) == before


def test_a_report_has_to_have_a_place_before_the_work(judged, capsys, monkeypatch):
    def too_late(*arguments, **options):
        raise AssertionError

    monkeypatch.setattr(scanning, "scan_files", too_late)
    code, said = refuse(capsys, judged, "scan", "model", "--out", "afile/new.json")
    assert code == COULD_NOT
    assert "--out" in said
