"""``loricate extract`` on models written on the spot, with a known change."""

import importlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from loricate.adapters.adapter import Target
from loricate.adapters.files import open_adapter
from loricate.adapters.tensors import save_tensors
from loricate.cli.exits import ExitCode
from loricate.cli.main import run

# rich draws from the global generator when this is first imported.
importlib.import_module("rich.style")

QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
MLP = "text_model.encoder.layers.0.mlp.fc1"
ATTENTION = "encoder.mid_block.attentions.0.to_q"

# As single files call the same tensors.
SINGLE = {
    ("unet", QUERY): "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    ("unet", CONV): "model.diffusion_model.input_blocks.1.0.in_layers.2",
    ("unet", "conv_norm_out"): "model.diffusion_model.out.0",
    ("text_encoder", MLP): f"cond_stage_model.transformer.{MLP}",
    ("text_encoder", "text_model.embeddings.token_embedding"): (
        "cond_stage_model.transformer.text_model.embeddings.token_embedding"
    ),
    ("vae", ATTENTION): "first_stage_model.encoder.mid.attn_1.q",
}


class Models:
    """A base and a tuned model in memory, and on disk in any layout."""

    def __init__(self, folder, rng):
        self.folder = folder
        self.base = {
            ("unet", f"{QUERY}.weight"): rng.standard_normal((120, 160)),
            ("unet", f"{CONV}.weight"): rng.standard_normal((8, 4, 3, 3)),
            ("unet", f"{CONV}.bias"): rng.standard_normal(8),
            ("unet", "conv_norm_out.weight"): np.ones(8),
            ("text_encoder", f"{MLP}.weight"): rng.standard_normal((12, 6)),
            ("text_encoder", "text_model.embeddings.token_embedding.weight"): (
                rng.standard_normal((9, 6))
            ),
            ("vae", f"{ATTENTION}.weight"): rng.standard_normal((6, 6)),
        }
        self.tuned = {key: tensor.copy() for key, tensor in self.base.items()}

    def change(self, component, name, update):
        self.tuned[component, name] += update.reshape(self.tuned[component, name].shape)

    def write(self, side, *, dtype=np.float32):
        """A diffusers folder."""
        tensors = getattr(self, side)
        for part in sorted({component for component, _ in tensors}):
            path = self.folder / side / part
            path.mkdir(parents=True, exist_ok=True)
            stored = {n: t.astype(dtype) for (c, n), t in tensors.items() if c == part}
            save_tensors(path / "model.safetensors", stored)
        return self.folder / side

    def write_single(self, side):
        """A single file."""
        stored = {}
        for (component, name), tensor in getattr(self, side).items():
            module, _, leaf = name.rpartition(".")
            is_vae_attention = component == "vae" and tensor.ndim == 2
            shape = (*tensor.shape, 1, 1) if is_vae_attention else tensor.shape
            stored[f"{SINGLE[component, module]}.{leaf}"] = tensor.reshape(shape)
        stored |= {"model_ema.decay": np.ones(()), "alphas_cumprod": np.ones(4)}
        stored = {name: tensor.astype(np.float32) for name, tensor in stored.items()}
        save_tensors(self.folder / f"{side}.safetensors", stored)
        return self.folder / f"{side}.safetensors"


@pytest.fixture
def models(tmp_path, rng):
    return Models(tmp_path, rng)


def low_rank(rng, shape, rank, *, decay=0.5):
    left, right = (np.linalg.qr(rng.standard_normal((n, rank)))[0] for n in shape)
    return (left * decay ** np.arange(rank)) @ right.T


def plant(models, rng):
    """Changes of ranks 2, 3, 1 and 2, by target."""
    planted = {
        ("unet", QUERY): low_rank(rng, (120, 160), 2),
        ("unet", CONV): low_rank(rng, (8, 36), 3),
        ("text_encoder", MLP): low_rank(rng, (12, 6), 1),
        ("vae", ATTENTION): low_rank(rng, (6, 6), 2),
    }
    for (component, module), update in planted.items():
        models.change(component, f"{module}.weight", update)
    return planted


def extract(capsys, models, *arguments, base=None, tuned=None, expect=ExitCode.PASS):
    base, tuned = base or models.write("base"), tuned or models.write("tuned")
    out = models.folder / "lora"
    flags = ["--base", base, "--tuned", tuned, "--out", out, *arguments]
    assert run(["extract", *map(str, flags), "--json"]) == expect
    captured = capsys.readouterr()
    if expect is not ExitCode.PASS:
        assert not out.exists()
        return captured.err
    return json.loads(captured.out)


def layers(report):
    return {(each["component"], each["module"]): each for each in report["layers"]}


def written(models):
    return open_adapter(models.folder / "lora").adapter


def test_planted_updates_come_back(models, rng, capsys):
    planted = plant(models, rng)
    del planted["vae", ATTENTION]  # no pipeline file holds it
    models.base.pop(("vae", f"{ATTENTION}.weight"))
    models.tuned.pop(("vae", f"{ATTENTION}.weight"))
    found = layers(extract(capsys, models, "--rule", "rank:3", "--to", "diffusers"))
    assert set(found) == set(planted)
    adapter = written(models)
    for target, update in planted.items():
        dense = adapter[Target(*target)].dense()
        np.testing.assert_allclose(dense.reshape(update.shape), update, atol=2e-6)
        assert found[target]["norm"] == pytest.approx(np.linalg.norm(update), rel=1e-5)
        assert found[target]["retained_energy"] > 0.9999
    assert found["unet", CONV]["kind"] == "conv"
    assert found["unet", CONV]["shape"] == [8, 4, 3, 3]


def test_numbers_of_a_known_spectrum(models, capsys):
    models.change("text_encoder", f"{MLP}.weight", np.diag([0.4, 0.3, 0, 0, 0, 0, *[0] * 6])[:, :6])
    report = extract(capsys, models, "--rule", "rank:1")
    layer = layers(report)["text_encoder", MLP]
    assert (layer["rank"], layer["exact"]) == (1, True)
    assert layer["norm"] == pytest.approx(0.5, rel=1e-5)
    # Certified: never above the truth, and below it by rounding only.
    assert 0.64 - 1e-4 < layer["retained_energy"] <= 0.64
    assert 0.6 <= layer["relative_error"] < 0.6 + 1e-4
    assert report["retained_energy"] == pytest.approx(layer["retained_energy"])
    assert report["n_unchanged"] == 3


def test_a_large_layer_is_sketched_within_its_certificate(models, rng, capsys):
    noise = 0.01 * rng.standard_normal((120, 160))
    models.change("unet", f"{QUERY}.weight", low_rank(rng, (120, 160), 12, decay=0.8) + noise)
    layer = layers(extract(capsys, models, "--rule", "rank:4", "--max-excess", "0.1"))[
        "unet", QUERY
    ]
    assert not layer["exact"]
    key = ("unet", f"{QUERY}.weight")
    change = models.tuned[key].astype(np.float32) - models.base[key].astype(np.float32)
    error = np.linalg.norm(change - written(models)[Target("unet", QUERY)].dense())
    optimum = np.linalg.norm(np.linalg.svd(change, compute_uv=False)[4:])
    assert error <= layer["relative_error"] * layer["norm"] * (1 + 1e-6)
    assert error <= 1.01 * optimum
    assert (layer["relative_error"] - layer["excess"]) * layer["norm"] <= optimum


@pytest.mark.parametrize("sides", ["file and folder", "folder and file", "two files"])
def test_layouts_may_differ(models, rng, capsys, sides):
    planted = plant(models, rng)
    for side in (models.base, models.tuned):
        del side["unet", f"{CONV}.bias"]
    base = models.write_single("base") if sides != "folder and file" else None
    tuned = models.write_single("tuned") if sides != "file and folder" else None
    for component in ("unet", "text_encoder", "vae"):
        flags = ("--rule", "rank:3", "--component", component)
        found = layers(extract(capsys, models, *flags, base=base, tuned=tuned))
        expected = {target: update for target, update in planted.items() if target[0] == component}
        assert set(found) == set(expected)
        adapter = written(models)
        for target, update in expected.items():
            dense = adapter[Target(*target)].dense()
            assert found[target]["shape"] == list(
                models.base[component, f"{target[1]}.weight"].shape
            )
            np.testing.assert_allclose(dense.reshape(update.shape), update, atol=2e-6)


def test_averages_in_a_checkpoint_are_no_component(models, rng, capsys):
    planted = plant(models, rng)
    base, tuned = models.write_single("base"), models.write_single("tuned")
    flags = ("--rule", "rank:3", "--to", "diffusers")
    report = extract(capsys, models, *flags, base=base, tuned=tuned)
    assert report["skipped"] == ["model"]
    assert set(layers(report)) == set(planted)


def test_the_folder_of_one_component_is_enough(models, rng, capsys):
    planted = plant(models, rng)
    base, tuned = models.write("base") / "unet", models.write("tuned")
    report = extract(capsys, models, "--rule", "rank:3", base=base, tuned=tuned)
    assert {part for part, _ in layers(report)} == {"unet"}
    assert report["skipped"] == ["text_encoder", "vae"]
    lone = tuned / "unet" / "model.safetensors"
    flags = ("--rule", "rank:3", "--component", "unet")
    extract(capsys, models, *flags, base=base, tuned=lone)
    dense = written(models)[Target("unet", QUERY)].dense()
    np.testing.assert_allclose(dense, planted["unet", QUERY], atol=2e-6)


def test_half_precision_is_subtracted_in_single(models, rng, capsys):
    # The change is the difference of what is stored, to the last bit, before it is decomposed.
    plant(models, rng)
    base, tuned = (models.write(side, dtype=np.float16) for side in ("base", "tuned"))
    flags = ("--rule", "numerical", "--component", "text_encoder")
    extract(capsys, models, *flags, base=base, tuned=tuned)
    before, after = (
        getattr(models, side)["text_encoder", f"{MLP}.weight"].astype(np.float16)
        for side in ("base", "tuned")
    )
    exact = after.astype(np.float64) - before.astype(np.float64)
    dense = written(models)[Target("text_encoder", MLP)].dense()
    np.testing.assert_allclose(dense, exact, atol=2e-6)


def test_rules_by_component(models, rng, capsys):
    plant(models, rng)
    base, tuned = models.write("base"), models.write("tuned")
    rules = "rank:1,unet=rank:2"
    for folder in (base, tuned):
        (folder / "vae" / "model.safetensors").unlink()
    flags = ("--rule", rules, "--to", "diffusers")
    found = layers(extract(capsys, models, *flags, base=base, tuned=tuned))
    ranks = {key: layer["rank"] for key, layer in found.items()}
    assert ranks == {("unet", QUERY): 2, ("unet", CONV): 2, ("text_encoder", MLP): 1}


def test_factors_are_split_evenly_and_repeatable(models, rng, capsys):
    plant(models, rng)
    flags = ("--rule", "rank:2", "--component", "unet", "--seed", "7")
    extract(capsys, models, *flags)
    first = {target: update.factors for target, update in written(models).items()}
    extract(capsys, models, *flags)
    for target, update in written(models).items():
        a, b = update.factors.A, update.factors.B
        np.testing.assert_allclose(a @ a.T, b.T @ b, atol=1e-5)
        np.testing.assert_array_equal(a, first[target].A)
        np.testing.assert_array_equal(b, first[target].B)


def test_torch_computes_the_same(models, rng, capsys):
    plant(models, rng)
    flags = ("--rule", "rank:2", "--component", "unet")
    extract(capsys, models, *flags)
    ours = written(models)
    extract(capsys, models, *flags, "--device", "cpu")
    for target, update in written(models).items():
        np.testing.assert_allclose(update.dense(), ours[target].dense(), atol=1e-5)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("unet", f"{CONV}.bias"),
        ("unet", "conv_norm_out.weight"),
        ("text_encoder", "text_model.embeddings.token_embedding.weight"),
    ],
)
def test_what_no_update_holds_is_refused_or_named(models, rng, capsys, component, name):
    plant(models, rng)
    models.change(component, name, np.full(models.base[component, name].shape, 0.1))
    flags = ("--rule", "rank:2", "--component", component)
    words = extract(capsys, models, *flags, expect=ExitCode.COULD_NOT_RUN)
    assert f"{component}/{name}" in words
    assert "--ignore-rest" in words
    report = extract(capsys, models, *flags, "--ignore-rest")
    assert report["rest"] == [f"{component}/{name}"]


def test_a_tensor_that_only_one_model_has_is_not_dropped_silently(models, rng, capsys):
    plant(models, rng)
    models.tuned["unet", "conv_out.bias"] = np.ones(4)
    flags = ("--rule", "rank:2", "--component", "unet")
    words = extract(capsys, models, *flags, expect=ExitCode.COULD_NOT_RUN)
    assert "unet/conv_out.bias" in words


def test_equal_models_leave_nothing_to_extract(models, capsys):
    words = extract(capsys, models, "--rule", "rank:2", expect=ExitCode.COULD_NOT_RUN)
    assert "--tuned" in words


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["base", "tuned"])
def test_what_is_not_finite_is_named(models, capsys, side, bad):
    getattr(models, side)["unet", f"{QUERY}.weight"][3, 4] = bad
    words = extract(capsys, models, "--rule", "rank:2", expect=ExitCode.COULD_NOT_RUN)
    assert f"unet/{QUERY}" in words
    assert side in words


def test_other_architectures_are_recognized(models, rng, capsys):
    models.tuned["unet", f"{QUERY}.weight"] = rng.standard_normal((120, 80))
    words = extract(capsys, models, "--rule", "rank:2", expect=ExitCode.COULD_NOT_RUN)
    assert "(120, 160)" in words
    assert "architectures" in words
    del models.tuned["unet", f"{QUERY}.weight"]
    words = extract(capsys, models, "--rule", "rank:2", expect=ExitCode.USAGE)
    assert QUERY in words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rule", "enrgy:0.9"], "energy"),
        (["--rule", "unett=rank:2"], "unet"),
        (["--rule", "unet=rank:2"], "text_encoder"),
        (["--rule", "rank:2", "--component", "vea"], "vae"),
        (["--rule", "rank:2", "--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_usage_errors_that_help(models, rng, capsys, flags, words):
    plant(models, rng)
    assert words in extract(capsys, models, *flags, expect=ExitCode.USAGE)


def test_table_and_notes(models, rng, capsys):
    plant(models, rng)
    models.change("unet", f"{CONV}.bias", np.ones(8))
    flags = ["--base", models.write("base"), "--tuned", models.write("tuned"), "--ignore-rest"]
    flags += ["--rule", "energy:0.9", "--out", models.folder / "lora", "--component", "unet"]
    assert run(["extract", *map(str, flags)]) == ExitCode.PASS
    out, err = capsys.readouterr()
    assert all(word in out for word in (QUERY, "8 x 4 x 3 x 3", "energy"))
    assert f"unet/{CONV}.bias" in err


def test_torch_is_not_needed(models, rng):
    plant(models, rng)
    flags = ["extract", "--base", str(models.write("base")), "--tuned", str(models.write("tuned"))]
    flags += ["--rule", "rank:2", "--component", "unet", "--out", str(models.folder / "lora")]
    code = f"""
import sys
sys.modules["torch"] = None
from loricate.cli.main import run
sys.exit(run({flags!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.PASS, done.stderr
