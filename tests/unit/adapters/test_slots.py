"""Where weights lie, whatever the shape they are stored in."""

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.merged import Merged
from loricate.adapters.slots import Slot, find_slot, slots_of
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.adapters.weights import open_model
from loricate.basics.errors import ConfigError

STORED = {
    "fc.weight": (3, 2),
    "attn.in_proj_weight": (6, 2),
    "text_projection": (4, 2),
    "conv.weight": (3, 2, 1, 1),
    "temperature.weight": (),
    "logit_scale": (),
}


@pytest.fixture
def path(tmp_path, rng):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {name: rng.standard_normal(shape) for name, shape in STORED.items()})
    return path


@pytest.fixture
def weights(path):
    (weights,) = open_model(path).values()
    return weights


def test_shapes_are_those_of_the_modules(weights):
    shapes = {name: slot.shape(weights) for name, slot in slots_of("model", weights).items()}
    thirds = dict.fromkeys(("attn.q_proj", "attn.k_proj", "attn.v_proj"), (2, 2))
    assert shapes == thirds | {
        "fc": (3, 2),
        "text_projection": (2, 4),
        "conv": (3, 2, 1, 1),
        "temperature": (),
    }
    for name, slot in slots_of("model", weights).items():
        assert slot.of(weights).shape == shapes[name]


def test_a_scalar_has_no_axes(weights):
    assert Slot("logit_scale").shape(weights) == ()


def test_modules_that_are_not_there(weights):
    with pytest.raises(ConfigError, match="did you mean 'conv'"):
        find_slot(slots_of("model", weights), "conw")


def test_a_base_with_scalars_is_merged_and_read_back(path, tmp_path):
    update = Update.from_factors(np.ones((1, 2)), np.ones((3, 1)))
    merged = Merged(base=path, component="model")
    merged.write(Adapter({Target("model", "fc"): update}), tmp_path / "merged.safetensors")
    (found,) = merged.read(tmp_path / "merged.safetensors").values()
    np.testing.assert_allclose(found.dense(), np.ones((3, 2)))
    before, after = TensorFile(path), TensorFile(tmp_path / "merged.safetensors")
    assert after["logit_scale"] == before["logit_scale"]
