"""Law 9 for merged folders: the weights are base plus update, and the update comes back."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.merged import Merged
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.arrays import from_numpy, to_numpy, tolerance, unit_roundoff
from loricate.basics.errors import ConfigError, NumericalError, ShapeError, UnsupportedError
from loricate.lowrank.factors import LowRank
from loricate.testing.strategies import DTYPES, adapters


def base_folder(folder, adapter, dtype="float32"):
    """A component whose weights fit an adapter, beside tensors that no adapter touches."""
    rng = np.random.default_rng(0)
    shapes = {f"{t.module}.weight": update.weight_shape for t, update in adapter.items()}
    shapes |= {"norm.weight": (3,), "norm.bias": (3,), "other.weight": (2, 2)}
    like = np.empty(0, "float32" if dtype == "bfloat16" else dtype)
    tensors = {name: from_numpy(rng.standard_normal(s), like) for name, s in shapes.items()}
    if dtype == "bfloat16":
        import ml_dtypes

        tensors = {name: t.astype(ml_dtypes.bfloat16) for name, t in tensors.items()}
    path = Path(folder) / "base"
    path.mkdir()
    save_tensors(path / "diffusion_pytorch_model.fp16.safetensors", tensors)
    (path / "config.json").write_text("{}")
    return path, tensors


@settings(max_examples=40)
@given(adapters(), st.sampled_from(DTYPES), st.sampled_from((None, "float32")))
def test_weights_are_base_plus_update_rounded_once(adapter, dtype, wanted):
    with tempfile.TemporaryDirectory() as folder:
        base, tensors = base_folder(folder, adapter, dtype)
        out = Path(folder) / "out"
        Merged(base=base, dtype=wanted).write(adapter, out)
        file = TensorFile(out / "diffusion_pytorch_model.safetensors")
        assert (out / "config.json").exists()
        assert file.keys() == tensors.keys()
        for name, tensor in tensors.items():
            stored = file[name]
            assert stored.dtype == (tensor.dtype if wanted is None else np.dtype(wanted))
            update = adapter.get(Target("vae", name.removesuffix(".weight")))
            change = to_numpy(update.dense()) if update else 0.0
            expected = to_numpy(tensor) + change
            # One rounding to the stored dtype, after a sum of products in float32 or wider.
            u, rows = unit_roundoff(stored), (tensor.shape[0], tensor.size // tensor.shape[0])
            norm = np.linalg.norm(to_numpy(tensor)) + np.linalg.norm(change)
            atol = tolerance(np.asarray([norm]), rows, dtype=np.dtype("float32"))
            bound = atol + u * (1 + 2 * u) * np.abs(to_numpy(stored))
            assert np.all(np.abs(to_numpy(stored) - expected) <= bound)
            if update is None and wanted is None:
                assert stored.tobytes() == tensor.tobytes()


@settings(max_examples=30)
@given(adapters(dtypes=("float64",)))
def test_the_update_comes_back(adapter):
    with tempfile.TemporaryDirectory() as folder:
        base, tensors = base_folder(folder, adapter, "float64")
        form = Merged(base=base)
        form.write(adapter, Path(folder) / "out")
        back = form.read(Path(folder) / "out")
    for target, update in adapter.items():
        dense = to_numpy(update.dense())
        norm = np.linalg.norm(dense)
        weight = np.asarray([norm + np.linalg.norm(tensors[f"{target.module}.weight"])])
        rounding = dense.size * tolerance(weight, update.factors.shape)
        # What vanishes in the rounding of the weight was no change, and is not in the adapter.
        found = to_numpy(back[target].dense()) if target in back else 0.0
        assert target not in back or back[target].kernel == update.kernel
        assert np.linalg.norm(found - dense) <= np.sqrt(1 - form.rule.p) * norm + rounding


def one(module="conv1", kernel=None, component="vae"):
    factors = LowRank(np.ones((1, 4 if kernel is None else int(np.prod(kernel)))), np.ones((3, 1)))
    return Adapter({Target(component, module): Update(factors, kernel)})


def test_old_names_are_found(tmp_path):
    new, old = one("attentions.0.to_q"), one("attentions.0.query")
    base, tensors = base_folder(tmp_path, old)
    Merged(base=base).write(new, tmp_path / "out")
    file = TensorFile(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    name = "attentions.0.query.weight"
    np.testing.assert_allclose(file[name], tensors[name] + 1, rtol=2**-22)


def test_a_linear_update_fits_a_1x1_convolution(tmp_path):
    base, tensors = base_folder(tmp_path, one(kernel=(4, 1, 1)))
    Merged(base=base).write(one(), tmp_path / "out")
    file = TensorFile(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    assert file["conv1.weight"].shape == (3, 4, 1, 1)
    np.testing.assert_allclose(file["conv1.weight"], tensors["conv1.weight"] + 1, rtol=2**-22)


def test_misfits_name_module_and_fix(tmp_path):
    base, _ = base_folder(tmp_path, one())
    form = Merged(base=base)
    with pytest.raises(ConfigError) as caught:
        form.write(one("conv2"), tmp_path / "out")
    assert caught.value.problems[0].nearest == "conv1"
    with pytest.raises(ShapeError) as caught:
        form.write(one(kernel=(4, 3, 3)), tmp_path / "out")
    assert caught.value.where == "conv1.weight"
    with pytest.raises(UnsupportedError):
        form.write(one(component="unet"), tmp_path / "out")
    with pytest.raises(ConfigError):
        form.write(one(), base)
    assert [each.name for each in tmp_path.iterdir()] == ["base"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"norm.bias": np.zeros(3)}, UnsupportedError),
        ({"norm.bias": np.zeros(4)}, ShapeError),
        ({"more.weight": np.zeros((2, 2))}, UnsupportedError),
    ],
    ids=["not low-rank", "another shape", "another tensor"],
)
def test_what_no_adapter_explains_is_not_read(tmp_path, changes, error):
    base, tensors = base_folder(tmp_path, one())
    (tmp_path / "tuned").mkdir()
    save_tensors(tmp_path / "tuned" / "weights.safetensors", tensors | changes)
    with pytest.raises(error):
        Merged(base=base).read(tmp_path / "tuned")


def test_an_overflow_of_half_precision_names_the_weight_and_the_fix(tmp_path):
    base, _ = base_folder(tmp_path, one(), "float16")
    with pytest.raises(NumericalError) as caught, np.errstate(over="ignore"):
        Merged(base=base).write(one().scaled(1e6), tmp_path / "out")
    assert (caught.value.where, caught.value.hint) == ("conv1.weight", "store it as float32")
    Merged(base=base, dtype="float32").write(one().scaled(1e6), tmp_path / "out")


def test_one_weight_under_two_names_is_refused(tmp_path):
    base, _ = base_folder(tmp_path, one("attn.query"))
    both = Adapter(dict(one("attn.query")) | dict(one("attn.to_q")))
    with pytest.raises(UnsupportedError):
        Merged(base=base).write(both, tmp_path / "out")
