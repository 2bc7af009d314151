"""``loricate combine``: sums without cross terms, over every mixture of files."""

import json

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.cli.exits import ExitCode
from loricate.cli.main import run


def combine(capsys, sources, out, *flags, expect=ExitCode.PASS):
    arguments = ["combine", *sources, "--out", out, *flags, "--json"]
    assert run(list(map(str, arguments))) == expect
    shown = capsys.readouterr()
    return json.loads(shown.out) if expect == ExitCode.PASS else shown.err


@pytest.fixture
def files(lora, tmp_path):
    """Saves adapters in different forms and gives their paths."""

    def saved(*adapters):
        forms = ("kohya", "diffusers", "kohya")[: len(adapters)]
        paths = [tmp_path / f"{n}.safetensors" for n in range(len(adapters))]
        for adapter, path, form in zip(adapters, paths, forms, strict=True):
            save_adapter(adapter, path, form=form)
        return paths

    return saved


def assert_is_sum(out, terms, rtol=1e-5):
    """Whether an adapter is a sum of (gain, adapter), module by module."""
    found = open_adapter(out).adapter
    assert set(found) == {target for _, adapter in terms for target in adapter}
    for target, update in found.items():
        parts = [gain * each[target].dense() for gain, each in terms if target in each]
        expected = np.sum(np.asarray(parts, np.float64), axis=0)
        np.testing.assert_allclose(
            update.dense(), expected, atol=rtol * np.abs(expected).max(), rtol=0
        )


def test_ranks_add_up_and_nothing_is_lost(lora, files, tmp_path, capsys):
    adapters = lora(rank=2), lora(rank=3), lora(rank=1)
    out = tmp_path / "out.safetensors"
    report = combine(capsys, files(*adapters), out, "--weights", "1,0.5,-2")
    assert_is_sum(out, list(zip((1, 0.5, -2), adapters, strict=True)))
    assert {each["rank"] for each in report["modules"]} == {6}
    assert report["least_energy"] > 1 - 1e-12
    assert report["form"] == "kohya"
    named = open_adapter(out).adapter.metadata["combined_from"]
    assert named == "1.0 * 0.safetensors + 0.5 * 1.safetensors + -2.0 * 2.safetensors"


def test_with_a_rule_it_is_the_best_of_that_rank(lora, files, tmp_path, capsys):
    adapters, out = (lora(rank=3), lora(rank=3)), tmp_path / "out.safetensors"
    report = combine(capsys, files(*adapters), out, "--rule", "rank:2", "--to", "diffusers")
    found = open_adapter(out)
    assert found.form == "diffusers"
    for each in report["modules"]:
        target = Target(each["component"], each["module"])
        total = sum(adapter[target].dense().astype(np.float64) for adapter in adapters)
        u, s, vh = np.linalg.svd(total.reshape(len(total), -1), full_matrices=False)
        best = ((u[:, :2] * s[:2]) @ vh[:2]).reshape(total.shape)
        np.testing.assert_allclose(found.adapter[target].dense(), best, atol=5e-6 * s[0])
        energy = float((s[:2] ** 2).sum() / (s**2).sum())
        assert each["retained_energy"] == pytest.approx(energy, rel=1e-6)
        assert (each["rank_before"], each["rank"]) == (6, 2)


def test_different_modules_make_a_union(lora, files, tmp_path, capsys):
    whole = lora()
    parts = whole.only(["unet"]), whole.only(["text_encoder"])
    out = tmp_path / "out.safetensors"
    combine(capsys, files(*parts), out, "--weights", "2,3")
    assert_is_sum(out, [(2, parts[0]), (3, parts[1])])


def test_what_all_sources_say_is_kept_but_not_their_history(lora, files, tmp_path, capsys):
    said = {"title": "same", "resized_by_rule": "fixed:4"}
    adapters = [Adapter(lora(), {**said, "note": str(n)}) for n in range(2)]
    combine(capsys, files(*adapters), tmp_path / "out.safetensors")
    metadata = open_adapter(tmp_path / "out.safetensors").adapter.metadata
    assert metadata["title"] == "same"
    assert not {"note", "resized_by_rule"} & set(metadata)


def test_a_weight_of_zero_leaves_an_adapter_out(lora, files, tmp_path, capsys):
    adapters, out = (lora(rank=2), lora(rank=3)), tmp_path / "out.safetensors"
    report = combine(capsys, files(*adapters), out, "--weights", "0,1")
    assert_is_sum(out, [(1, adapters[1])])
    assert {each["rank"] for each in report["modules"]} == {3}


def test_what_cancels_is_left_out(lora, files, tmp_path, capsys, shapes):
    adapter, other = lora(), lora()
    first = next(iter(shapes))
    mixed = Adapter({**adapter, Target(*first): other[Target(*first)]})
    out = tmp_path / "out.safetensors"
    flags = ("--weights", "1,-1", "--rule", "numerical")
    report = combine(capsys, files(adapter, mixed), out, *flags)
    assert set(open_adapter(out).adapter) == {first}
    assert sorted(each["rank"] for each in report["modules"]) == [0, 0, 0, 0, 8]
    assert report["least_energy"] > 1 - 1e-9


def test_half_precisions_meet_in_single(lora, files, tmp_path, capsys):
    import ml_dtypes

    adapters = lora(dtype=np.float16), lora(dtype=ml_dtypes.bfloat16)
    paths, out = files(*adapters), tmp_path / "out.safetensors"
    combine(capsys, paths, out)
    found = open_adapter(out).adapter
    assert {update.factors.A.dtype for update in found.values()} == {np.dtype(np.float32)}
    assert_is_sum(out, [(1, open_adapter(path).adapter) for path in paths], rtol=1e-2)
    combine(capsys, paths, out, "--dtype", "float16")
    found = open_adapter(out).adapter
    assert {update.factors.A.dtype for update in found.values()} == {np.dtype(np.float16)}


def test_a_linear_layer_and_its_1x1_convolution_add_up(lora, files, tmp_path, capsys, shapes):
    target = Target("unet", "down_blocks.0.attentions.0.proj_in")
    conv = lora(shapes={target: (16, 16, 1, 1)})
    linear = Adapter({target: Update(lora(shapes={target: (16, 16)})[target].factors)})
    out = tmp_path / "out.safetensors"
    combine(capsys, files(conv, linear), out)
    total = conv[target].factors.dense() + linear[target].factors.dense()
    found = open_adapter(out).adapter[target]
    assert found.weight_shape == (16, 16, 1, 1)
    np.testing.assert_allclose(found.factors.dense(), total, atol=1e-6)


def test_different_shapes_name_module_and_file(lora, files, tmp_path, capsys, shapes):
    target = next(iter(shapes))
    wide = lora(shapes={target: (16, 21)})
    paths, out = files(lora(), wide), tmp_path / "out.safetensors"
    words = combine(capsys, paths, out, expect=ExitCode.COULD_NOT_RUN)
    assert all(word in words for word in (target[1], "1.safetensors", "(16, 20)", "(16, 21)"))
    assert not out.exists()


@pytest.mark.parametrize("weights", ["1", "1,2,3", "1,nan", "inf,1", "0,0", "1,x", ""])
def test_weights_have_to_fit(lora, files, tmp_path, capsys, weights):
    paths, out = files(lora(), lora()), tmp_path / "out.safetensors"
    words = combine(capsys, paths, out, "--weights", weights, expect=ExitCode.USAGE)
    assert "numbers" in words
    assert not out.exists()


def test_no_source_is_overwritten(lora, files, capsys):
    paths = files(lora(), lora())
    before = paths[1].read_bytes()
    combine(capsys, paths, paths[1], expect=ExitCode.USAGE)
    assert paths[1].read_bytes() == before
