"""``loricate bake`` and ``loricate unbake``: there, and back to the bit."""

import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.peft import PEFT
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.adapters.undo import undo_path
from loricate.adapters.weights import open_model
from loricate.cli.exits import ExitCode
from loricate.cli.main import run
from loricate.integrity.digest import digest
from loricate.recipes.bake import BASE_DIGEST

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")


def adapter(rng):
    updates = {}
    for module, shape in {"conv1": (4, 3, 3, 3), "fc": (6, 5)}.items():
        a = rng.standard_normal((2, *shape[1:]), np.float32)
        b = rng.standard_normal((shape[0], 2) + (1,) * (len(shape) - 2), np.float32)
        updates[Target("vae", module)] = Update.from_factors(a, b, 0.3)
    return Adapter(updates)


@pytest.fixture
def paths(tmp_path, rng):
    """A base in one file, an adapter for it, and where things go."""
    shapes = {"conv1.weight": (4, 3, 3, 3), "conv1.bias": (4,), "fc.weight": (6, 5)}
    tensors = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_tensors(tmp_path / "base.safetensors", tensors, {"title": "base"})
    PEFT().write(adapter(rng), tmp_path / "adapter")
    names = ("base.safetensors", "adapter", "baked.safetensors", "restored.safetensors")
    return [tmp_path / name for name in names]


def bake(paths, *flags):
    base, source, baked, _ = map(str, paths)
    return run(["bake", source, "--base", base, "--out", baked, *flags])


def unbake(paths, *flags):
    _, source, baked, restored = map(str, paths)
    return run(["unbake", baked, "--adapter", source, "--out", restored, *flags])


def test_there_and_back_to_the_bit(paths, capsys):
    base, source, baked, restored = paths
    assert bake(paths, "--gain", "0.7", "--json") == ExitCode.PASS
    report = json.loads(capsys.readouterr().out)
    assert (report["components"], report["modules"], report["gain"]) == (["vae"], 2, 0.7)
    assert {each["name"] for each in report["tensors"]} == {"conv1.weight", "fc.weight"}
    assert 1 - 1e-12 < report["retained_energy"] <= 1
    for target, update in PEFT().read(source).items():
        name = f"{target.module}.weight"
        expected = TensorFile(base)[name] + np.float32(0.7) * update.dense()
        np.testing.assert_allclose(TensorFile(baked)[name], expected, rtol=1e-5, atol=1e-6)
    assert unbake(paths, "--json") == ExitCode.PASS
    report = json.loads(capsys.readouterr().out)
    assert (report["is_base"], report["max_error"], report["gain"]) == (True, 0.0, 0.7)
    assert restored.read_bytes() == base.read_bytes()


def test_tables_say_what_was_lost(paths, capsys):
    assert bake(paths, "--dtype", "float16") == ExitCode.PASS
    shown = capsys.readouterr()
    assert all(word in shown.out for word in ("conv1.weight", "float16", "underflows", "2 modules"))
    assert "bake: 3 steps" in shown.err
    assert unbake(paths) == ExitCode.PASS
    assert "the base, bit for bit" in capsys.readouterr().out
    assert paths[3].read_bytes() == paths[0].read_bytes()


def test_without_the_record_it_says_how_far_off(paths, capsys):
    base, _, baked, restored = paths
    bake(paths)
    undo_path(baked).unlink()
    capsys.readouterr()
    assert unbake(paths, "--json") == ExitCode.INCONCLUSIVE
    report = json.loads(capsys.readouterr().out)
    assert report["is_base"] is None
    off = [np.abs(TensorFile(restored)[n] - TensorFile(base)[n]).max() for n in TensorFile(base)]
    assert 0 < max(off) <= report["max_error"] < 1e-5
    assert dict(TensorFile(restored).metadata) == dict(TensorFile(base).metadata)


def test_the_base_itself_is_proof_too(paths, capsys):
    base, _, baked, restored = paths
    bake(paths)
    undo_path(baked).unlink()
    assert unbake(paths, "--base", str(base)) == ExitCode.NEGATIVE
    assert "off by up to" in capsys.readouterr().err
    assert not restored.exists()
    baked.unlink()
    bake(paths)
    assert unbake(paths, "--base", str(base)) == ExitCode.PASS


def test_another_base_is_told_by_its_distance(paths, capsys):
    bake(paths)
    file = TensorFile(paths[0])
    other = {name: np.array(file[name]) for name in file}
    other["fc.weight"][0, 0] += 2
    save_tensors(paths[0], other)
    assert unbake(paths, "--base", str(paths[0])) == ExitCode.NEGATIVE
    assert "1 of 3 tensors off by up to 2.0e+00" in capsys.readouterr().err
    save_tensors(paths[0], other | {"more": np.ones(1)})
    assert unbake(paths, "--base", str(paths[0])) == ExitCode.COULD_NOT_RUN
    assert "'more'" in capsys.readouterr().err


def test_another_adapter_does_not_restore_the_base(paths, rng, capsys):
    bake(paths)
    PEFT().write(adapter(rng), paths[1])
    assert unbake(paths) == ExitCode.NEGATIVE
    assert "another than was baked" in capsys.readouterr().err
    undo_path(paths[2]).unlink()
    assert unbake(paths) == ExitCode.NEGATIVE
    assert not paths[3].exists()


@pytest.mark.parametrize(("stated", "code"), [("right", 0), ("wrong", 1)])
def test_an_adapter_that_names_its_base_goes_into_no_other(paths, rng, stated, code):
    right = digest(open_model(paths[0])["model"])
    metadata = {BASE_DIGEST: right if stated == "right" else "0" * 64}
    PEFT().write(Adapter(adapter(rng), metadata), paths[1])
    assert bake(paths) == code
    assert paths[2].exists() == (code == 0)


def test_a_baked_file_that_was_edited_is_not_the_base(paths, capsys):
    bake(paths)
    file = TensorFile(paths[2])
    edited = {name: np.array(file[name]) for name in file}
    edited["conv1.bias"][0] += 1
    save_tensors(paths[2], edited, file.metadata)
    assert unbake(paths) == ExitCode.NEGATIVE
    assert "'conv1.bias'" in capsys.readouterr().err


def test_a_foreign_record_is_refused(paths):
    bake(paths)
    save_tensors(undo_path(paths[2]), {}, {"title": "not a record"})
    assert unbake(paths) == ExitCode.COULD_NOT_RUN
    assert not paths[3].exists()


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("--out", "{base}"), ExitCode.USAGE),
        (("--out", "{adapter}/new.safetensors"), ExitCode.USAGE),
        (("--component", "unet"), ExitCode.USAGE),
        (("--dtype", "float8"), ExitCode.USAGE),
        (("--gain", "inf"), ExitCode.COULD_NOT_RUN),
    ],
)
def test_mistakes_change_nothing(paths, flags, code):
    base, source, baked, _ = paths
    before = base.read_bytes()
    assert bake(paths, *(flag.format(base=base, adapter=source) for flag in flags)) == code
    assert base.read_bytes() == before
    assert not baked.exists()
    assert sorted(each.name for each in base.parent.iterdir()) == ["adapter", "base.safetensors"]


def test_neither_loads_torch(paths):
    base, source, baked, restored = map(str, paths)
    there = ["bake", source, "--base", base, "--out", baked]
    back = ["unbake", baked, "--adapter", source, "--out", restored]
    code = f"""
import sys
sys.modules["torch"] = None
from loricate.cli.main import run
from loricate.integrity.digest import digest
from loricate.recipes.bake import BASE_DIGEST
sys.exit(max(run({there!r}), run({back!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
