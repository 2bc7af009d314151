"""Merged weights against base plus update, in every kind of layer, dtype and layout."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.merged import Merged
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import HostileFileError
from loricate.integrity.merge_check import _by_place, check_merge, name_in_diffusers
from loricate.lowrank.merge import merge

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
UPDATED = {
    ("unet", f"{BLOCK}.attn1.to_q"): (8, 8),
    ("unet", "down_blocks.0.attentions.0.proj_in"): (8, 8, 1, 1),
    ("unet", "down_blocks.0.resnets.0.conv1"): (8, 4, 3, 3),
    ("vae", "encoder.conv_in"): (4, 3, 3, 3),
    ("vae", "encoder.mid_block.attentions.0.to_q"): (8, 8),
    ("text_encoder", "text_model.encoder.layers.0.mlp.fc1"): (12, 6),
    ("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj"): (6, 6),
}
HALVES = {"float16": np.float16, "bfloat16": bfloat16}


def weights_of(rng, component, dtype=np.float32):
    shapes = {f"{t[1]}.weight": s for t, s in UPDATED.items() if t[0] == component}
    shapes |= {"untouched.bias": (5,), "other.weight": (3, 3)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def adapter_for(rng, components, rank=2, dtype=np.float32):
    updates = {}
    for target, shape in UPDATED.items():
        if target[0] in components:
            a = rng.standard_normal((rank, *shape[1:])).astype(dtype)
            b = 0.1 * rng.standard_normal((shape[0], rank, *(1,) * (len(shape) - 2)))
            updates[Target(*target)] = Update.from_factors(a, b.astype(dtype), 0.7)
    return Adapter(updates)


@pytest.fixture
def base(tmp_path, rng):
    """A pipeline of three components."""
    root = tmp_path / "base"
    for component in ("unet", "vae", "text_encoder"):
        save_tensors(root / component / "model.safetensors", weights_of(rng, component))
    (root / "model_index.json").write_text("{}")
    return root


@pytest.fixture
def merged(base, rng, tmp_path):
    """Makes merged copies: ``merged(dtype=None)`` gives (adapter, folder)."""

    def made(dtype=None):
        adapter = adapter_for(rng, {"unet", "vae", "text_encoder"})
        Merged(base=base, component=None, dtype=dtype).write(adapter, tmp_path / "merged")
        return adapter, tmp_path / "merged"

    return made


def results(adapter, base, merged):
    return {f"{each.component}/{each.name}": each for each in check_merge(adapter, base, merged)}


def edit(folder, component, change):
    """Apply a change to the tensors of a component."""
    path = folder / component / "model.safetensors"
    tensors = {name: np.array(each) for name, each in TensorFile(path).items()}
    change(tensors)
    save_tensors(path, tensors)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16", "float32"])
def test_what_was_baked_is_base_plus_update_to_the_bit(base, merged, dtype):
    adapter, folder = merged(dtype)
    found = results(adapter, base, folder)
    assert len(found) == len(UPDATED) + 3 * 2
    assert {each.passed for each in found.values()} == {True}
    assert {each.is_exact for each in found.values()} == {True}
    updated = {name for name, each in found.items() if each.is_updated}
    assert updated == {f"{component}/{module}.weight" for component, module in UPDATED}


@pytest.mark.parametrize("target", UPDATED, ids=lambda target: f"{target[0]}-{target[1][-12:]}")
def test_every_kind_of_layer_is_held_to_its_update(base, merged, target):
    adapter, folder = merged()
    name = f"{target[1]}.weight"

    def change(tensors):
        tensors[name].reshape(-1)[-1] += np.float32(1e-4)

    edit(folder, target[0], change)
    found = results(adapter, base, folder)
    wrong = {key for key, each in found.items() if each.passed is not True}
    assert wrong == {f"{target[0]}/{name}"}
    bad = found[f"{target[0]}/{name}"]
    assert bad.passed is False
    assert bad.max_error > 1
    assert "what rounding explains" in bad.why


def test_one_bit_of_float32_is_no_proof_and_one_of_half_is_rounding(base, merged):
    def nudge(tensors):
        entry = tensors["encoder.conv_in.weight"].reshape(-1)
        bits = entry.view(f"u{entry.dtype.itemsize}")
        bits[0] ^= 1

    for dtype, passed in (("float32", None), ("float16", True), ("bfloat16", True)):
        adapter, folder = merged(dtype)
        edit(folder, "vae", nudge)
        found = results(adapter, base, folder)["vae/encoder.conv_in.weight"]
        assert (found.passed, found.is_exact) == (passed, False)
        assert 0 < found.max_error <= 1


@pytest.mark.parametrize("dtype", [*HALVES, "float32"])
def test_merges_in_the_arithmetic_of_other_tools_are_within_rounding(base, rng, tmp_path, dtype):
    torch = pytest.importorskip("torch")
    kind = getattr(torch, dtype)
    adapter = adapter_for(rng, {"unet"}, rank=4)
    tensors = {}
    for name, weight in TensorFile(base / "unet" / "model.safetensors").items():
        half = torch.from_numpy(np.array(weight)).to(kind)
        update = adapter.modules("unet").get(name.removesuffix(".weight"))
        if update is not None:
            a, b = (torch.from_numpy(f).to(kind) for f in (update.factors.A, update.factors.B))
            half = half + (update.factors.scale * (b @ a)).reshape(half.shape)
        tensors[name] = half
    save_tensors(tmp_path / "theirs" / "unet" / "model.safetensors", tensors)
    narrow = {n: t.astype(HALVES.get(dtype, np.float32)) for n, t in _stored(base).items()}
    save_tensors(base / "unet" / "model.safetensors", narrow)
    found = results(adapter, base, tmp_path / "theirs")
    assert all(each.passed is not False for each in found.values())
    assert any(not each.is_exact for each in found.values())
    assert max(each.max_error for each in found.values()) <= 1
    # The same weights, where the update is another.
    other = results(adapter.scaled(1.5), base, tmp_path / "theirs")
    assert {each.passed for each in other.values() if each.is_updated} == {False}


def _stored(base):
    return TensorFile(base / "unet" / "model.safetensors")


def test_terms_that_cancel_allow_nothing(base, rng):
    # A pair of terms that sum to zero, and are a thousand times larger than the weight.
    target, huge = Target("unet", f"{BLOCK}.attn1.to_q"), np.float32([[1e3, -1e3]])
    row = rng.standard_normal((1, 8)).astype(np.float32)
    update = Update.from_factors(np.repeat(row, 2, axis=0), np.repeat(huge, 8, axis=0))
    Merged(base=base, component=None, dtype="float16").write(
        Adapter({target: update}), base.parent / "merged"
    )

    def tamper(tensors):
        tensors[f"{target.module}.weight"] += np.float16(0.3)

    edit(base.parent / "merged", "unet", tamper)
    found = results(Adapter({target: update}), base, base.parent / "merged")
    assert found[f"unet/{target.module}.weight"].passed is False


def test_numpy_of_float32_agrees_by_an_oracle(base, merged, rng):
    adapter, folder = merged()
    name = "encoder.conv_in.weight"
    before = TensorFile(base / "vae" / "model.safetensors")[name]
    update = adapter.modules("vae")["encoder.conv_in"].factors
    expected = merge(before.reshape(4, -1), update).reshape(before.shape)
    stored = TensorFile(folder / "vae" / "model.safetensors")[name]
    np.testing.assert_allclose(stored, expected, rtol=1e-6, atol=1e-7)


def test_what_no_update_is_for_has_to_be_the_bases(base, merged):
    adapter, folder = merged()

    def change(tensors):
        tensors["untouched.bias"].view("u4")[0] ^= 1
        tensors["other.weight"] = tensors["other.weight"].reshape(9)
        tensors["new"] = np.ones(1)

    edit(folder, "vae", change)
    found = results(adapter, base, folder)
    wrong = {key: each.why for key, each in found.items() if each.passed is False}
    assert wrong == {
        "vae/untouched.bias": "it is not the base's, and no update is for it",
        "vae/other.weight": "shape (9,), the base has (3, 3)",
        "vae/new": "the base has no such tensor",
    }
    edit(folder, "vae", lambda tensors: tensors.pop("other.weight"))
    assert results(adapter, base, folder)["vae/other.weight"].passed is False


def test_integers_in_place_of_floats_and_nan_are_named(base, merged):
    adapter, folder = merged()

    def change(tensors):
        tensors["untouched.bias"] = tensors["untouched.bias"].astype(np.int32)
        tensors["encoder.conv_in.weight"][0, 0, 0, 0] = np.nan

    edit(folder, "vae", change)
    found = results(adapter, base, folder)
    assert found["vae/untouched.bias"].why == "dtype int32, the base has float32"
    assert found["vae/encoder.conv_in.weight"].passed is False
    assert found["vae/encoder.conv_in.weight"].max_error == np.inf


def test_the_base_itself_is_recognized(base, rng):
    adapter = adapter_for(rng, {"vae"})
    found = results(adapter, base, base)
    assert {each.is_base for each in found.values()} == {True}
    assert {each.passed for each in found.values() if each.is_updated} == {False}


def test_files_are_compared_as_folders_are(tmp_path, rng):
    tensors = {f"first_stage_model.{n}": t for n, t in weights_of(rng, "vae").items()}
    tensors = {
        n.replace("mid_block.attentions.0.to_q", "mid.attn_1.q"): t for n, t in tensors.items()
    }
    tensors["model.diffusion_model.x.weight"] = np.ones((2, 2), np.float32)
    save_tensors(tmp_path / "base.safetensors", tensors)
    adapter = adapter_for(rng, {"vae"})
    out = tmp_path / "merged.safetensors"
    Merged(base=tmp_path / "base.safetensors", component=None).write(adapter, out)
    found = results(adapter, tmp_path / "base.safetensors", out)
    assert {each.passed for each in found.values()} == {True}
    assert len(found) == len(tensors)


def test_a_single_file_base_is_found_under_the_names_of_diffusers(tmp_path, rng):
    adapter = adapter_for(rng, {"vae"})
    own = weights_of(rng, "vae")
    save_tensors(tmp_path / "vae" / "model.safetensors", own)
    Merged(base=tmp_path / "vae", component="vae").write(adapter, tmp_path / "merged")
    query = "encoder.mid_block.attentions.0.to_q.weight"
    file = own | {"encoder.mid.attn_1.q.weight": own[query][..., None, None]}
    file.pop(query)
    named = {f"first_stage_model.{name}": each for name, each in file.items()}
    save_tensors(tmp_path / "base.safetensors", named)
    found = results(adapter, tmp_path / "base.safetensors", tmp_path / "merged")
    assert {each.passed for each in found.values()} == {True}
    assert f"vae/{query}" in found


@pytest.mark.parametrize(
    ("component", "name", "expected"),
    [
        ("vae", "encoder.mid.attn_1.q.weight", "encoder.mid_block.attentions.0.to_q.weight"),
        ("vae", "x.attentions.0.query.weight", "x.attentions.0.to_q.weight"),
        (
            "text_encoder",
            "encoder.layers.0.mlp.fc1.bias",
            "text_model.encoder.layers.0.mlp.fc1.bias",
        ),
        ("unet", "a_lone_buffer", "a_lone_buffer"),
    ],
)
def test_names(component, name, expected):
    assert name_in_diffusers(component, name) == expected


def test_two_tensors_for_one_place_are_refused(tmp_path):
    twins = ("decoder.mid.attn_1.norm.bias", "decoder.mid_block.attentions.0.group_norm.bias")
    with pytest.raises(HostileFileError, match="one tensor to loaders"):
        _by_place("vae", {name: name for name in twins}, tmp_path / "merged.safetensors")
    assert _by_place("vae", {twins[0]: "own name"}, tmp_path) == {twins[1]: "own name"}
