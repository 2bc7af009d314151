"""What is no plain, sound LoRA is refused by its name, at its module, and nothing is written."""

import json

import ml_dtypes
import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import FORMS, open_adapter, save_adapter
from loricate.adapters.formats.peft import PEFT
from loricate.adapters.tensors import save_tensors
from loricate.basics.errors import (
    ConfigError,
    HostileFileError,
    NumericalError,
    PrerequisiteError,
    ShapeError,
    UnsupportedError,
)

MODULE = "lora_unet_mid_block_attentions_0_proj_in"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lora.safetensors"


def plain(a=None, b=None):
    return {
        f"{MODULE}.lora_down.weight": np.ones((2, 5)) if a is None else a,
        f"{MODULE}.lora_up.weight": np.ones((3, 2)) if b is None else b,
    }


@pytest.mark.parametrize(
    ("suffixes", "kind"),
    [
        (["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1"], "LoHa"),
        (["lokr_w1", "lokr_w2_a", "lokr_w2_b", "lokr_t2"], "LoKr"),
        (["dora_scale"], "DoRA"),
        (["lora_magnitude_vector.weight"], "DoRA"),
        (["lora_magnitude_vector"], "DoRA"),
        (["oft_blocks"], "OFT"),
        (["a1.weight", "a2.weight", "b1.weight", "b2.weight"], "GLoRA"),
        (["weight", "on_input"], "IA3"),
        (["diff"], "full difference of the weight"),
        (["diff_b"], "difference of the bias"),
        (["set_weight"], "set_weight"),
        (["reshape_weight"], "reshape_weight"),
        (["w_norm", "b_norm"], "norm"),
        (["bias_indices", "bias_values", "bias_size"], "sparse bias"),
        (["lora_up.bias"], "with bias"),
        (["lora_embedding_A", "lora_embedding_B"], "embedding"),
        (["weight"], "modules_to_save"),
        (["modules_to_save.weight"], "modules_to_save"),
    ],
)
def test_variants_are_named_and_never_dropped(path, suffixes, kind):
    extra = {f"lora_unet_conv_out.{suffix}": np.ones(3) for suffix in suffixes}
    save_tensors(path, plain() | extra)
    with pytest.raises(UnsupportedError, match=kind) as caught:
        open_adapter(path)
    assert "'lora_unet_conv_out'" in caught.value.what
    assert "loricate extract" in caught.value.hint


def test_a_bundled_embedding_is_named(path):
    save_tensors(path, plain() | {"bundle_emb.cat.string_to_param.*": np.ones((1, 8))})
    with pytest.raises(UnsupportedError, match="a bundled embedding at 'cat'"):
        open_adapter(path)


def test_many_modules_are_counted_and_unknown_tensors_shown(path):
    save_tensors(path, {f"lora_unet_{i}.hada_w1_a": np.ones(2) for i in range(4)})
    with pytest.raises(UnsupportedError, match=r"LoHa at 'lora_unet_0' \(and 3 more\)"):
        open_adapter(path)
    save_tensors(path, plain() | {"position_ids": np.arange(3)})
    with pytest.raises(UnsupportedError, match="unknown tensor 'position_ids'"):
        open_adapter(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_that_are_not_finite(path, value, dtype):
    b = np.ones((3, 2), dtype)
    b[1, 1] = value
    save_tensors(path, plain(np.ones((2, 5), dtype), b))
    with pytest.raises(NumericalError) as caught:
        open_adapter(path)
    assert caught.value.where == MODULE
    assert "take an earlier" in caught.value.hint


@pytest.mark.parametrize(
    ("a", "b", "hint"),
    [
        ((5, 2), (2, 3), "each looks transposed, or the two are swapped"),
        ((5, 2), (3, 2), "A looks transposed"),
        ((2, 5), (2, 3), "B looks transposed"),
        ((2, 5), (3, 4), None),
        ((2, 5, 1), (3, 2, 1), None),
        ((2,), (3,), None),
        ((), (), None),
    ],
)
def test_pairs_that_do_not_fit(path, a, b, hint):
    save_tensors(path, plain(np.ones(a), np.ones(b)))
    with pytest.raises(ShapeError) as caught:
        open_adapter(path)
    assert caught.value.where == MODULE
    assert caught.value.hint == hint


@pytest.mark.parametrize(("a", "b"), [((0, 5), (3, 0)), ((2, 0), (3, 2))])
def test_rank_zero(path, a, b):
    save_tensors(path, plain(np.ones(a), np.ones(b)))
    with pytest.raises(ShapeError, match="a rank of at least 1") as caught:
        open_adapter(path)
    assert "remove the tensors" in caught.value.hint


@pytest.mark.parametrize("alpha", [None, 2.0, 1.0])
@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_swapped_factors_of_a_square_layer(path, alpha, kernel):
    a, b = (np.ones((*shape, *kernel)) for shape in ((16, 2), (2, 16)))
    tensors = plain(a, b)
    if alpha is not None:
        tensors[f"{MODULE}.alpha"] = np.asarray(alpha)
    save_tensors(path, tensors)
    with pytest.raises(ShapeError, match="at most 2 at a layer 2 x 2") as caught:
        open_adapter(path)
    assert caught.value.where == MODULE
    assert "swapped or transposed" in caught.value.hint


@pytest.mark.parametrize("reason", ["alpha", "another module", "a thin side"])
def test_a_rank_above_both_sides_of_a_thin_layer(path, reason):
    sides = (3, 20) if reason == "a thin side" else (3, 5)
    tensors = plain(np.ones((16, sides[1])), np.ones((sides[0], 16)))
    if reason == "alpha":
        tensors[f"{MODULE}.alpha"] = np.asarray(16.0)
    if reason == "another module":
        tensors["lora_unet_conv_out.lora_down.weight"] = np.ones((16, 4))
        tensors["lora_unet_conv_out.lora_up.weight"] = np.ones((320, 16))
    save_tensors(path, tensors)
    assert {update.rank for update in open_adapter(path).adapter.values()} == {16}


def test_a_grouped_convolution_is_told_by_its_factors(path):
    # PEFT gives each of two groups half of the rank.
    save_tensors(path, plain(np.ones((4, 6, 3, 3)), np.ones((8, 2, 1, 1))))
    with pytest.raises(UnsupportedError, match="grouped convolution") as caught:
        open_adapter(path)
    assert MODULE in caught.value.what


def test_a_lone_factor(path):
    tensors = plain()
    tensors.pop(f"{MODULE}.lora_up.weight")
    save_tensors(path, tensors)
    with pytest.raises(ShapeError, match="a pair of factors"):
        open_adapter(path)


@pytest.mark.parametrize("dtype", [np.int8, np.bool_])
def test_factors_of_integers(path, dtype):
    save_tensors(path, plain(np.ones((2, 5), dtype), np.ones((3, 2), dtype)))
    with pytest.raises(ShapeError, match="floating point"):
        open_adapter(path)


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (np.float16, "float16"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (ml_dtypes.float8_e4m3fn, "float16"),
        (ml_dtypes.float8_e5m2, "float16"),
    ],
)
def test_short_floats_keep_every_value(path, rng, dtype, kept):
    a, b = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 5), (3, 2)))
    save_tensors(path, plain(a, b))
    found = open_adapter(path)
    (update,) = found.adapter.values()
    assert update.factors.A.dtype.name == kept
    np.testing.assert_array_equal(update.factors.A.astype(float), a.astype(float))
    np.testing.assert_array_equal(update.factors.B.astype(float), b.astype(float))
    assert bool(found.notes) == (kept != np.dtype(dtype).name)


@pytest.mark.parametrize("n_bytes", [0, 4, 100, -1])
def test_truncated_files(path, n_bytes):
    save_tensors(path, plain())
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(HostileFileError):
        open_adapter(path)


@pytest.mark.parametrize("form", FORMS)
def test_two_files_in_one_folder(tmp_path, form):
    folder = tmp_path / "folder"
    folder.mkdir()
    if form == "peft":
        save_adapter(sound(), folder, form="peft")
    else:
        save_adapter(sound(), folder / "one.safetensors", form=form)
    save_tensors(folder / "planted.safetensors", plain())
    with pytest.raises(ConfigError, match=r"planted\.safetensors"):
        open_adapter(folder)


def test_what_is_not_there_and_pickles(tmp_path):
    with pytest.raises(PrerequisiteError, match="safetensors file"):
        open_adapter(tmp_path)
    with pytest.raises(PrerequisiteError, match="the file"):
        open_adapter(tmp_path / "nowhere.safetensors")
    (tmp_path / "lora.pt").write_bytes(b"\x80\x02")
    with pytest.raises(UnsupportedError, match="pickle"):
        open_adapter(tmp_path / "lora.pt")


def test_weights_of_peft_need_their_config(tmp_path):
    save_adapter(sound(), tmp_path / "lora", form="peft")
    weights = tmp_path / "lora" / "adapter_model.safetensors"
    assert open_adapter(weights).form == "peft"
    (tmp_path / "lora" / "adapter_config.json").unlink()
    for path in (weights, tmp_path / "lora"):
        with pytest.raises(PrerequisiteError, match="adapter_config"):
            open_adapter(path)


def test_config_and_header_of_peft_may_not_differ(tmp_path):
    save_adapter(sound(), tmp_path, form="peft")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    with pytest.raises(ConfigError, match="ALPHA_CONFLICT"):
        open_adapter(tmp_path)


@pytest.mark.parametrize("key", ["r", "lora_alpha", "rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("number", [10**400, True, "4", float("nan"), None], ids=range(5))
def test_numbers_of_a_config_are_finite(tmp_path, key, number):
    save_adapter(sound(), tmp_path, form="peft")
    given = {"conv_in": number} if key.endswith("pattern") else number
    config = json.loads((tmp_path / "adapter_config.json").read_text()) | {key: given}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="a finite number") as caught:
        open_adapter(tmp_path)
    assert caught.value.problems[0].key == ("conv_in" if key.endswith("pattern") else key)


def sound(**factors):
    a, b = np.ones((2, 5), np.float16), np.ones((3, 2), np.float16)
    update = Update.from_factors(factors.get("a", a), factors.get("b", b), factors.get("scale", 1))
    return Adapter({Target("unet", "conv_in"): update})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("factors", "error"),
    [
        ({"scale": 1e6}, NumericalError),  # too much for half precision
        ({"b": np.full((3, 2), np.nan, np.float16)}, NumericalError),
        ({"a": np.ones((0, 5)), "b": np.ones((3, 0))}, UnsupportedError),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_nothing_is_half_written(tmp_path, form, factors, error):
    out = tmp_path / ("out" if form == "peft" else "out.safetensors")
    with pytest.raises(error, match="unet/conv_in"):
        save_adapter(sound(**factors), out, form=form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMS)
def test_empty_adapters_are_not_written(tmp_path, form):
    with pytest.raises(UnsupportedError, match="without updates"):
        save_adapter(Adapter({}), tmp_path / "out.safetensors", form=form)


def test_the_level_of_text_encoders_is_chosen_for_peft(tmp_path):
    update = next(iter(sound().values()))
    module = "text_model.encoder.layers.0.mlp.fc1"
    adapter = Adapter({Target("text_encoder", module): update})
    for tower in (True, False):
        PEFT(tower=tower).write(adapter, tmp_path / f"{tower}")
        assert open_adapter(tmp_path / f"{tower}").adapter.keys() == adapter.keys()
    assert "key_mapping" in (tmp_path / "True" / "README.md").read_text()
    assert "key_mapping" not in (tmp_path / "False" / "README.md").read_text()


def test_a_wrong_base_in_a_form_that_names_modules(path, tmp_path):
    save_adapter(sound(), path, form="diffusers")
    for folder, tensors, match in (
        ("unet", {"conv_on.weight": np.ones((3, 5))}, "did you mean 'conv_on'"),
        ("vae", {"conv_in.weight": np.ones((3, 5))}, "one of vae, as in the base"),
    ):
        base = tmp_path / folder
        base.mkdir()
        save_tensors(base / "weights.safetensors", tensors)
        with pytest.raises(ConfigError, match=match):
            open_adapter(path, base=base)


def test_empty_files_and_foreign_names(path):
    save_tensors(path, {})
    with pytest.raises(UnsupportedError, match="the empty file"):
        open_adapter(path)
    factors = {"lora_A.weight": np.ones((2, 5)), "lora_B.weight": np.ones((3, 2))}
    for prefixes, match in (
        (("diffusion_model.double_blocks.0.img_mlp.0.",), "Stable Diffusion's UNet"),
        (("unet.conv_in.", "conv_out."), "a name that begins with one of unet"),
    ):
        save_tensors(path, {p + key: a for p in prefixes for key, a in factors.items()})
        with pytest.raises(ConfigError, match=match):
            open_adapter(path)


@pytest.mark.parametrize("text", ["[1]", "{", "3"])
def test_a_header_that_is_no_config(path, text):
    factors = {"unet.conv_in.lora_A.weight": np.ones((2, 5))}
    factors["unet.conv_in.lora_B.weight"] = np.ones((3, 2))
    save_tensors(path, factors, {"lora_adapter_metadata": text})
    with pytest.raises(ConfigError, match="a JSON object"):
        open_adapter(path)
