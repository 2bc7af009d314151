"""Adapters as values, and files that are more than plain LoRA."""

import json

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.peft import PEFT
from loricate.adapters.tensors import save_tensors
from loricate.adapters.weights import component_folder, open_model, open_weights
from loricate.basics.errors import (
    ConfigError,
    HostileFileError,
    PrerequisiteError,
    ShapeError,
    UnsupportedError,
)
from loricate.lowrank.factors import LowRank

LINEAR = Update(LowRank(np.ones((2, 4)), np.ones((3, 2)), 0.5))
CONV = Update.from_factors(np.ones((1, 2, 3, 3)), np.ones((5, 1, 1, 1)), 2.0)


def adapter():
    return Adapter({Target("vae", "fc"): LINEAR, Target("unet", "a.conv"): CONV})


def test_facts_of_updates():
    assert (LINEAR.kind, LINEAR.weight_shape, LINEAR.n_parameters) == ("linear", (3, 4), 14)
    assert (CONV.kind, CONV.weight_shape, CONV.n_parameters) == ("conv", (5, 2, 3, 3), 23)
    np.testing.assert_array_equal(CONV.dense(), np.full((5, 2, 3, 3), 2.0))
    np.testing.assert_array_equal(LINEAR.pair()[1], np.full((3, 2), 0.5))


def test_facts_of_adapters():
    assert adapter().components == ("unet", "vae")
    assert adapter().n_parameters == 37
    assert adapter().ranks == {("vae", "fc"): 2, ("unet", "a.conv"): 1}
    assert list(adapter().only(["vae"])) == [("vae", "fc")]
    assert adapter().modules("unet") == {"a.conv": CONV}
    np.testing.assert_array_equal(adapter().scaled(0.0)["vae", "fc"].dense(), np.zeros((3, 4)))


def test_adapters_do_not_change():
    with pytest.raises(TypeError):
        adapter().updates[Target("vae", "other")] = LINEAR


@pytest.mark.parametrize("module", ["", "a..b", "a/b", "../a", "a b", "a.b\n"])
def test_targets_are_dotted_names(module):
    with pytest.raises(ConfigError):
        Adapter({Target("vae", module): LINEAR})


def test_factors_of_different_kinds_do_not_pair():
    with pytest.raises(ShapeError):
        Update.from_factors(np.ones((2, 4)), np.ones((3, 2, 1, 1)))
    with pytest.raises(ShapeError):
        Update(LINEAR.factors, kernel=(1, 3, 3))


@pytest.fixture
def folder(tmp_path):
    PEFT().write(Adapter({Target("vae", "fc"): LINEAR}), tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def retensor(folder, metadata=(), **tensors):
    a, b = np.ones((2, 4), np.float32), np.ones((3, 2), np.float32)
    known = {"base_model.model.fc.lora_A.weight": a, "base_model.model.fc.lora_B.weight": b}
    merged = {name: t for name, t in (known | tensors).items() if t is not None}
    header = {"loricate.component": "vae"} | dict(metadata)
    save_tensors(folder / "adapter_model.safetensors", merged, header)


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "LOHA"},
        {"use_dora": True},
        {"modules_to_save": ["conv_out"]},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"lora_bias": True},
        {"a_setting_of_tomorrow": 3},
        {"rank_pattern": {"(a+)+$": 2}, "alpha_pattern": {"(a+)+$": 2}},
    ],
    ids=str,
)
def test_more_than_plain_lora_is_refused(folder, changes):
    edit(folder, **changes)
    with pytest.raises(UnsupportedError) as caught:
        PEFT().read(folder)
    assert caught.value.by == "format 'peft'"


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_alpha": 4},  # the header still says 2
        {"r": 3},
        {"r": "2"},
        {"r": None},
        {"lora_alpha": True},
        {"rank_pattern": [2]},
        {"rank_pattern": {"fc": 0}},
    ],
    ids=str,
)
def test_scales_that_do_not_fit_are_refused(folder, changes):
    edit(folder, **changes)
    with pytest.raises(ConfigError) as caught:
        PEFT().read(folder)
    assert caught.value.file is not None


@pytest.mark.parametrize("stated", ["{", "[]", '{"base_model.model.r": 2}'])
def test_a_header_that_states_no_scale_is_refused(folder, stated):
    retensor(folder, metadata={"lora_adapter_metadata": stated})
    with pytest.raises(ConfigError):
        PEFT().read(folder)


@pytest.mark.parametrize(("rooted", "scale"), [(False, 4.0), (True, 8 / 2**0.5)])
def test_alpha_over_rank_or_over_its_root(folder, rooted, scale):
    retensor(folder)
    edit(folder, lora_alpha=8, use_rslora=rooted)
    assert PEFT().read(folder)["vae", "fc"].factors.scale == scale


def test_foreign_and_lone_tensors_are_refused(folder):
    retensor(folder, **{"base_model.model.fc.lora_magnitude_vector.weight": np.ones(3)})
    with pytest.raises(UnsupportedError, match="DoRA at 'fc'"):
        PEFT().read(folder)
    retensor(folder, **{"base_model.model.fc.lora_B.weight": None})
    with pytest.raises(ShapeError) as caught:
        PEFT().read(folder)
    assert caught.value.where == "fc"
    retensor(folder, **{"base_model.model.fc.lora_B.weight": np.ones((2, 3))})
    with pytest.raises(ShapeError) as caught:
        PEFT().read(folder)
    assert caught.value.where == "fc"


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_configs_that_are_no_objects_are_hostile(folder, text):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(HostileFileError):
        PEFT().read(folder)


def test_the_component_is_stated_once(folder):
    assert PEFT(component="vae").read(folder).components == ("vae",)
    with pytest.raises(ConfigError):
        PEFT(component="unet").read(folder)
    save_tensors(
        folder / "adapter_model.safetensors",
        {"base_model.model.fc.lora_A.weight": np.ones((2, 4))}
        | {"base_model.model.fc.lora_B.weight": np.ones((3, 2))},
    )
    with pytest.raises(ConfigError):
        PEFT().read(folder)
    assert PEFT(component="unet").read(folder).components == ("unet",)


@pytest.mark.parametrize(
    "unfit",
    [
        adapter(),
        Adapter({}),
        Adapter({Target("vae", "fc"): Update(LowRank(np.ones((0, 4)), np.ones((3, 0))))}),
    ],
    ids=["two components", "nothing", "rank 0"],
)
def test_what_a_folder_cannot_hold_is_not_written(tmp_path, unfit):
    with pytest.raises(UnsupportedError):
        PEFT().write(unfit, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def save(path, *names):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {name: np.ones((2, 3), np.float32) for name in names})


def test_weights_are_found_in_folders_shards_and_files(tmp_path):
    save(tmp_path / "pipe/vae/diffusion_pytorch_model.safetensors", "a.weight")
    save(tmp_path / "pipe/vae/diffusion_pytorch_model.fp16.safetensors", "b.weight")
    save(tmp_path / "pipe/unet/m-00001-of-00002.safetensors", "c.weight")
    save(tmp_path / "pipe/unet/m-00002-of-00002.safetensors", "d.weight")
    shards = {
        "c.weight": "m-00001-of-00002.safetensors",
        "d.weight": "m-00002-of-00002.safetensors",
    }
    index = tmp_path / "pipe/unet/m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    save(tmp_path / "sd.safetensors", "first_stage_model.a.weight", "odd.weight")
    found = open_model(tmp_path / "pipe")
    assert {part: list(weights) for part, weights in found.items()} == {
        "unet": ["c.weight", "d.weight"],
        "vae": ["a.weight"],
    }
    assert open_model(tmp_path / "pipe/vae").keys() == {"vae"}
    assert found["unet"].stem == "m"
    single = open_model(tmp_path / "sd.safetensors")
    assert {part: list(weights) for part, weights in single.items()} == {
        "vae": ["a.weight"],
        "model": ["odd.weight"],
    }
    assert single["vae"].shape("a.weight") == (2, 3)
    index.write_text(json.dumps({"weight_map": {"c.weight": "../../secret.safetensors"}}))
    with pytest.raises(HostileFileError):
        open_weights(tmp_path / "pipe/unet")
    index.write_text("[]")
    with pytest.raises(HostileFileError):
        open_weights(tmp_path / "pipe/unet")
    index.unlink()
    index.mkdir()
    with pytest.raises(PrerequisiteError, match="a readable file"):
        open_weights(tmp_path / "pipe/unet")


def test_a_folder_that_leaves_the_choice_open_is_an_error(tmp_path):
    save(tmp_path / "one.safetensors", "a.weight")
    save(tmp_path / "two.safetensors", "a.weight")
    with pytest.raises(ConfigError):
        open_weights(tmp_path)
    with pytest.raises(PrerequisiteError):
        component_folder(tmp_path / "none", "vae")
    with pytest.raises(PrerequisiteError):
        open_model(tmp_path / "none")
