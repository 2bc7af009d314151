"""What a merged model looks like on disk, and what is refused before anything is written."""

import ml_dtypes
import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.baking import Loss
from loricate.adapters.formats.merged import Merged
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.adapters.undo import undo_path
from loricate.basics.errors import (
    ConfigError,
    NumericalError,
    ShapeError,
    UnsupportedError,
)
from loricate.lowrank.factors import LowRank

WEIGHTS = "diffusion_pytorch_model.safetensors"


def ones(d_out, d_in, value=1.0):
    return Update(LowRank(np.ones((1, d_in)), np.full((d_out, 1), value)))


def one(module="fc", component="unet", **kwargs):
    return Adapter({Target(component, module): ones(3, 2, **kwargs)})


def save(path, tensors, metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, tensors, metadata)
    return path


@pytest.fixture
def file(tmp_path):
    tensors = {"fc.weight": np.zeros((3, 2), np.float32), "norm.weight": np.ones(3, np.float16)}
    header = {"modelspec.title": "mine", "modelspec.hash_sha256": "0x12", "sshs_model_hash": "34"}
    return save(tmp_path / "base.safetensors", tensors, header)


@pytest.fixture
def pipeline(tmp_path):
    folder = tmp_path / "base"
    for name in ("unet", "vae"):
        weight = {"fc.weight": np.zeros((3, 2), np.float32)}
        save(folder / name / WEIGHTS, weight)
        save(folder / name / "diffusion_pytorch_model.fp16.safetensors", weight)
        (folder / name / "config.json").write_text(name)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "merges.txt").write_text("#version")
    (folder / "model_index.json").write_text("{}")
    save(folder / "single.safetensors", {"a": np.ones(1)})
    return folder


def listing(folder):
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file())


def test_a_file_becomes_a_file_with_its_header_but_not_its_hashes(file, tmp_path):
    out = tmp_path / "new" / "out.safetensors"
    Merged(base=file, component=None).write(one(), out)
    merged = TensorFile(out)
    assert dict(merged.metadata) == {"format": "pt", "modelspec.title": "mine"}
    np.testing.assert_array_equal(merged["fc.weight"], np.ones((3, 2), np.float32))
    assert merged["norm.weight"].tobytes() == TensorFile(file)["norm.weight"].tobytes()
    assert listing(out.parent) == ["out.safetensors"]


def test_a_pipeline_stays_complete_and_holds_no_weights_without_the_update(pipeline, tmp_path):
    out = tmp_path / "out"
    Merged(base=pipeline, component=None).bake(one(), out, provenance={"gain": "1.0"})
    assert listing(out) == [
        "model_index.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        f"unet/{WEIGHTS}",
        f"unet/{WEIGHTS}.unbake",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        f"vae/{WEIGHTS}",
    ]
    baked = TensorFile(out / "unet" / WEIGHTS)
    assert baked.metadata["loricate.baked.gain"] == "1.0"
    assert baked["fc.weight"].min() == 1
    assert (out / "vae" / WEIGHTS).read_bytes() == (pipeline / "vae" / WEIGHTS).read_bytes()


def test_a_component_becomes_a_folder_of_its_own(pipeline, tmp_path):
    Merged(base=pipeline, component="unet").write(one(), tmp_path / "by name")
    Merged(base=pipeline / "unet", component=None).write(one(), tmp_path / "by folder")
    for folder in ("by name", "by folder"):
        assert listing(tmp_path / folder) == ["config.json", WEIGHTS]


@pytest.mark.parametrize("out", ["base", "base/unet", "base/unet/new", ".", "base/../base"])
def test_the_base_is_never_touched(pipeline, tmp_path, out):
    before = {path: (pipeline / path).read_bytes() for path in listing(pipeline)}
    with pytest.raises(ConfigError):
        Merged(base=pipeline, component=None).write(one(), tmp_path / out)
    assert {path: (pipeline / path).read_bytes() for path in listing(pipeline)} == before


def test_a_file_is_not_written_over_itself_or_into_a_folder(file, tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    for out in (file, tmp_path / "folder.safetensors", tmp_path / "folder"):
        with pytest.raises(ConfigError) as caught:
            Merged(base=file, component=None).write(one(), out)
        assert caught.value.problems[0].key == "out"


def test_only_an_autoencoder_becomes_a_single_file(pipeline, tmp_path):
    with pytest.raises(UnsupportedError):
        Merged(base=pipeline, component=None).write(one(), tmp_path / "unet.safetensors")


@pytest.mark.parametrize(
    ("adapter", "error", "where"),
    [
        (one("fd"), ConfigError, None),
        (Adapter({**one(), **one(component="vae")}), ConfigError, None),
        (Adapter({Target("unet", "fc"): ones(2, 3)}), ShapeError, "fc.weight"),
        (one(value=np.nan), NumericalError, "fc.weight"),
    ],
    ids=["no such module", "no such component", "transposed", "NaN"],
)
def test_misfits_leave_nothing_behind(tmp_path, adapter, error, where):
    prefix = "model.diffusion_model."
    base = save(tmp_path / "base.safetensors", {f"{prefix}fc.weight": np.zeros((3, 2))})

    with pytest.raises(error) as caught:
        Merged(base=base, component=None).write(adapter, tmp_path / "out.safetensors")
    assert getattr(caught.value, "where", None) == where
    assert listing(tmp_path) == ["base.safetensors"]


def test_eight_bit_weights_are_refused(tmp_path):
    weight = np.zeros((3, 2), ml_dtypes.float8_e4m3fn)
    base = save(tmp_path / "base.safetensors", {"fc.weight": weight})
    with pytest.raises(UnsupportedError) as caught:
        Merged(base=base, component=None).write(one(), tmp_path / "out.safetensors")
    assert "float8_e4m3fn" in caught.value.what


def test_what_rounding_costs_is_told(tmp_path):
    weight = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]], np.float16)
    base = save(tmp_path / "base.safetensors", {"fc.weight": weight, "n": np.full(2, 1e-9)})
    form = Merged(base=base, component=None, dtype="float16")
    baked = {
        each.name: each for each in form.bake(one(value=2.0**-30), tmp_path / "out.safetensors")
    }
    # Nothing of it survives: next to 1 it is lost in rounding, next to 0 it underflows.
    loss = baked["fc.weight"].loss
    assert (loss.weight_norm, loss.n_underflow) == (1.0, 5)
    assert loss.update_norm == loss.lost_norm == pytest.approx(6**0.5 * 2.0**-30)
    assert loss.retained_energy == 0
    assert (baked["n"].dtype, baked["n"].loss.n_underflow) == ("float16", 2)


def test_retained_energy_is_a_share():
    def loss(update, lost):
        return Loss(weight_norm=1.0, update_norm=update, lost_norm=lost, n_underflow=0)

    assert loss(2.0, 1.0).retained_energy == 0.75
    assert loss(1.0, 3.0).retained_energy == 0.0
    assert loss(0.0, 0.0).retained_energy == 1.0


def test_an_overflow_leaves_nothing_behind(tmp_path):
    base = save(tmp_path / "base.safetensors", {"fc.weight": np.zeros((3, 2), np.float16)})
    with pytest.raises(NumericalError) as caught:
        Merged(base=base, component=None).write(one(value=1e6), tmp_path / "out.safetensors")
    assert (caught.value.where, caught.value.hint) == ("fc.weight", "store it as float32")
    assert "6 values" in caught.value.what
    assert listing(tmp_path) == ["base.safetensors"]


def test_the_record_of_a_base_lies_beside_the_file(tmp_path):
    assert undo_path(tmp_path / "vae.safetensors") == tmp_path / "vae.safetensors.unbake"


def test_an_autoencoder_of_another_kind_has_no_single_file_form(tmp_path):
    adapter = one("decoder.conv_in", "vae")
    for names in (["decoder.conv_in"], ["decoder.conv_in", "decoder.layers.0"]):
        folder = tmp_path / str(len(names)) / "vae"
        save(folder / WEIGHTS, {f"{name}.weight": np.zeros((3, 2)) for name in names})
        with pytest.raises(UnsupportedError):
            Merged(base=folder, component=None).write(adapter, tmp_path / "vae.safetensors")
        assert not (tmp_path / "vae.safetensors").exists()


def test_one_folder_does_not_take_two_components(pipeline, tmp_path):
    both = Adapter({**one(component="text_encoder"), **one(component="text_encoder_2")})
    with pytest.raises(ConfigError) as caught:
        Merged(base=pipeline / "unet", component=None).write(both, tmp_path / "out")
    assert caught.value.problems[0].key == "component"
    with pytest.raises(UnsupportedError):
        Merged(base=pipeline, component=None).write(Adapter({}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
