"""``loricate resize``: the best update of lower rank, and the truth about what is left."""

import json

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.adapters.formats.diffusers import Diffusers
from loricate.cli.exits import ExitCode
from loricate.cli.main import run


def resize(capsys, source, out, *flags, expect=ExitCode.PASS):
    assert run(["resize", str(source), "--out", str(out), *map(str, flags), "--json"]) == expect
    shown = capsys.readouterr()
    return json.loads(shown.out) if expect == ExitCode.PASS else shown.err


@pytest.fixture
def source(lora, tmp_path):
    save_adapter(lora(rank=6), tmp_path / "lora.safetensors", form="kohya")
    return tmp_path / "lora.safetensors"


def spectra(path):
    adapter = open_adapter(path).adapter
    return {t: np.linalg.svd(dense(adapter, t)) for t in adapter}


def dense(adapter, target):
    update = adapter[target].dense().astype(np.float64)
    return update.reshape(len(update), -1)


def modules(report):
    return {Target(each["component"], each["module"]): each for each in report["modules"]}


def test_every_module_becomes_its_best_approximation(source, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    report = resize(capsys, source, out, "--rule", "rank:2")
    before, after = open_adapter(source).adapter, open_adapter(out)
    assert after.form == report["form"] == "kohya"
    assert after.adapter.metadata["resized_by_rule"] == "fixed:2"
    for target, (u, s, vh) in spectra(source).items():
        best = (u[:, :2] * s[:2]) @ vh[:2]
        assert after.adapter[target].rank == 2
        assert after.adapter[target].kernel == before[target].kernel
        np.testing.assert_allclose(dense(after.adapter, target), best, atol=2e-6 * s[0])
        energy = float((s[:2] ** 2).sum() / (s**2).sum())
        assert modules(report)[target]["retained_energy"] == pytest.approx(energy, rel=1e-6)
        assert modules(report)[target]["rank_before"] == 6
    assert report["parameter_share"] == pytest.approx(2 / 6)
    assert report["least_energy"] == min(each["retained_energy"] for each in report["modules"])


def test_factors_are_split_evenly(source, tmp_path, capsys):
    resize(capsys, source, tmp_path / "out.safetensors", "--rule", "rank:2")
    for update in open_adapter(tmp_path / "out.safetensors").adapter.values():
        a, b = update.factors.A, update.factors.B
        np.testing.assert_allclose(a @ a.T, b.T @ b, atol=1e-5)


@pytest.mark.parametrize("flags", ["one flag", "two flags"])
def test_components_may_have_rules_of_their_own(source, tmp_path, capsys, flags):
    rules = {
        "one flag": ["--rule", "unet=rank:3,text_encoder=energy:0.9"],
        "two flags": ["--rule", "unet=rank:3", "--rule", "text_encoder=energy:0.9"],
    }
    report = resize(capsys, source, tmp_path / "out.safetensors", *rules[flags], "--no-pad")
    for target, (_, s, _) in spectra(source).items():
        shares = np.cumsum(s**2) / np.sum(s**2)
        by_energy = int(np.searchsorted(shares, 0.9) + 1)
        wanted = 3 if target.component == "unet" else by_energy
        assert modules(report)[target]["rank"] == wanted


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (["enrgy:0.9"], "energy"),
        (["unet=rank:2"], "text_encoder"),
        (["rank:2", "vae=rank:2"], "vae"),
        (["rank:2", "rank:3"], "one rule for each part"),
        (["rank:0"], "at least 1"),
    ],
)
def test_rules_that_do_not_fit_are_usage_errors(source, tmp_path, capsys, rules, words):
    out = tmp_path / "out.safetensors"
    flags = [flag for rule in rules for flag in ("--rule", rule)]
    assert words in resize(capsys, source, out, *flags, expect=ExitCode.USAGE)
    assert not out.exists()


def test_a_rule_for_noise_is_refused(source, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    words = resize(capsys, source, out, "--rule", "optimal", expect=ExitCode.COULD_NOT_RUN)
    assert "noise" in words
    assert not out.exists()


def test_the_form_and_the_dtype_are_kept(lora, tmp_path, capsys):
    adapter = lora(dtype=np.float16).only(["unet"])
    for form in ("peft", "diffusers"):
        save_adapter(adapter, tmp_path / form, form=form)
        resize(capsys, tmp_path / form, tmp_path / f"{form}-out", "--rule", "rank:1")
    Diffusers(lone=True).write(adapter, tmp_path / "lone.safetensors")
    resize(capsys, tmp_path / "lone.safetensors", tmp_path / "out.safetensors", "--rule", "rank:1")
    expected = {
        "peft-out": "peft",
        "diffusers-out": "diffusers",
        "out.safetensors": "diffusers-model",
    }
    for name, form in expected.items():
        found = open_adapter(tmp_path / name)
        assert found.form == form
        assert {update.factors.A.dtype for update in found.adapter.values()} == {np.dtype("f2")}
    report = resize(
        capsys, tmp_path / "peft", tmp_path / "k.safetensors", "--rule", "rank:1", "--to", "kohya"
    )
    assert report["form"] == "kohya"


def test_updates_that_are_zero_are_left_out(lora, tmp_path, capsys, shapes):
    target = Target(*next(iter(shapes)))
    adapter = lora()
    nothing = Update.from_factors(np.ones((2, 20), np.float32), np.zeros((16, 2), np.float32))
    source, out = tmp_path / "lora.safetensors", tmp_path / "out.safetensors"
    save_adapter(Adapter({**adapter, target: nothing}), source, form="diffusers")
    report = resize(capsys, source, out, "--rule", "rank:2")
    assert modules(report)[target]["rank"] == 0
    assert modules(report)[target]["retained_energy"] == 1.0
    assert set(open_adapter(out).adapter) == set(adapter) - {target}
    save_adapter(Adapter({target: nothing}), source, form="diffusers")
    new = tmp_path / "new.safetensors"
    words = resize(capsys, source, new, "--rule", "rank:2", expect=ExitCode.COULD_NOT_RUN)
    assert "rank 0" in words
    assert not new.exists()


def test_the_source_is_never_overwritten(source, capsys):
    before = source.read_bytes()
    assert "source" in resize(capsys, source, source, "--rule", "rank:2", expect=ExitCode.USAGE)
    assert source.read_bytes() == before


def test_the_table_shows_ranks_and_energy(source, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    assert run(["resize", str(source), "--rule", "rank:3", "--out", str(out)]) == ExitCode.PASS
    shown = capsys.readouterr()
    assert all(word in shown.out for word in ("now", "energy kept", "50% of the parameters"))
    assert "resize: 5 steps" in shown.err
