"""The corpora are what they claim to be: as many, as harmless and as odd as their names say."""

import json
import pickletools
import zipfile
from collections import Counter

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from loricate import models
from loricate.adapters.files import open_adapter
from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import HostileFileError, LoricateError
from loricate.lowrank.spectrum import stable_rank
from loricate.testing.corpora import pickles
from loricate.testing.corpora._adapters import Plan, adapter_for
from loricate.testing.corpora._headers import HEADERS
from loricate.testing.corpora._layers import embedded, stable_diffusion
from loricate.testing.corpora._weights import WEIGHTS, _first_layer_inputs, _token
from loricate.testing.corpora.benign import BENIGN
from loricate.testing.corpora.hostile import HOSTILE

WEIGHT = {case.name: case for case in WEIGHTS}
HEADER = {case.name: case for case in HEADERS}
GOOD = {case.name: case for case in BENIGN}


def test_there_are_as_many_as_promised():
    assert len(pickles.TABLE) == 14
    assert len(pickles.BENIGN) == 2
    hostile = [case for case in HOSTILE if case.rules != ("pickle",)]
    assert len(hostile) >= 40
    assert len(BENIGN) - len(pickles.BENIGN) >= 30


@pytest.mark.parametrize("corpus", [HOSTILE, BENIGN], ids=["hostile", "benign"])
def test_names_are_unique(corpus):
    counts = Counter(case.name for case in corpus)
    assert max(counts.values()) == 1


def test_hostile_cases_name_what_has_to_fire_and_benign_ones_nothing():
    assert all(case.rules for case in HOSTILE)
    assert not any(case.rules for case in BENIGN)


def opcodes(payload):
    return [(opcode.name, argument) for opcode, argument, _ in pickletools.genops(payload)]


@pytest.mark.parametrize("case", [*pickles.TABLE, *pickles.BENIGN], ids=lambda case: case.name)
def test_a_pickle_of_the_table_calls_something_iff_it_is_hostile(case, tmp_path):
    content = case.build(tmp_path).read_bytes()
    if content.startswith(b"PK"):
        with zipfile.ZipFile(case.build(tmp_path)) as archive:
            content = archive.read("archive/data.pkl")
    names = []
    while content:
        names += [name for name, _ in opcodes(content)]
        length = next(place for op, _, place in pickletools.genops(content) if op.name == "STOP")
        content = content[length + 1 :]
    assert ("REDUCE" in names) == bool(case.rules)


@pytest.mark.parametrize(
    "name",
    ["tensor_twice", "key_of_metadata_twice", "blanks_in_front", "unknown_field"],
)
def test_oddities_that_the_library_takes_are_taken_by_it(name, tmp_path):
    assert load_file(HEADER[name].build(tmp_path))


@pytest.mark.parametrize(
    "name",
    ["gap", "overlap", "hidden_tail", "truncated", "metadata_twice", "field_of_an_entry_twice"],
)
def test_what_fits_no_file_is_refused_by_every_reader(name, tmp_path):
    path = HEADER[name].build(tmp_path)
    with pytest.raises(SafetensorError):
        load_file(path)
    with pytest.raises(HostileFileError):
        TensorFile(path)


def test_headers_stay_small_on_disk(tmp_path):
    for case in HEADERS:
        folder = tmp_path / case.name
        folder.mkdir()
        assert case.build(folder).stat().st_blocks * 512 < 1 << 20, case.name


@pytest.mark.parametrize("name", [name for name in GOOD if name.startswith("our_")])
def test_what_we_wrote_is_read(name, tmp_path):
    assert len(open_adapter(GOOD[name].build(tmp_path)).adapter)


def test_every_form_and_dtype_is_among_the_benign(tmp_path):
    forms, dtypes, ranks = Counter(), Counter(), Counter()
    for case in BENIGN:
        folder = tmp_path / case.name
        folder.mkdir()
        try:
            found = open_adapter(case.build(folder), component=None)
        except (LoricateError, OSError):
            continue
        forms[found.form] += 1
        dtypes.update({str(update.factors.A.dtype) for update in found.adapter.values()})
        ranks.update(set(found.adapter.ranks.values()))
    assert {"peft", "diffusers", "diffusers-model", "kohya", "comfy"} == set(forms)
    assert {"float32", "float16", "bfloat16"} <= set(dtypes)
    assert {2, 4, 8, 16, 32} <= set(ranks)


@pytest.mark.parametrize("rank", [1, 4, 64])
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_a_plan_states_the_size_of_updates(rank, alpha):
    layers = embedded("unet", r"attn2\.to_[qk]$")
    adapter = adapter_for(layers, Plan(rank=rank, alpha=alpha, size=0.05))
    sizes = [
        np.linalg.norm(update.factors.dense()) / layers[target].norm
        for target, update in adapter.items()
    ]
    assert set(adapter.ranks.values()) == {rank}
    assert 0.03 < np.exp(np.mean(np.log(sizes))) < 0.08


def test_layers_of_the_embedded_model_have_the_norms_of_its_weights():
    layers = embedded("unet")
    weights = TensorFile(models.path() / "unet" / "diffusion_pytorch_model.safetensors")
    target = next(each for each in layers if each.module == "mid_block.resnets.0.conv1")
    stored = weights[f"{target.module}.weight"]
    assert layers[target].shape == stored.shape
    np.testing.assert_allclose(layers[target].norm, np.linalg.norm(stored.astype(float)))


@pytest.mark.parametrize(("family", "context"), [("sd1", 768), ("sdxl", 2048)])
def test_layers_of_stable_diffusion_have_its_shapes(family, context):
    shapes = {t.module: layer.shape for t, layer in stable_diffusion(family, "unet", "").items()}
    block = "mid_block.attentions.0"
    assert shapes[f"{block}.transformer_blocks.0.attn2.to_k"] == (1280, context)
    assert shapes[f"{block}.transformer_blocks.0.ff.net.0.proj"] == (10240, 1280)
    assert shapes["down_blocks.0.resnets.0.conv2"] == (320, 320, 3, 3)
    assert shapes["up_blocks.0.resnets.0.conv2"] == (1280, 1280, 3, 3)
    assert len(shapes[f"{block}.proj_in"]) == (4 if family == "sd1" else 2)


def test_collapsed_updates_have_one_direction_of_sixteen(tmp_path):
    adapter = open_adapter(WEIGHT["collapsed_attention"].build(tmp_path)).adapter
    for update in adapter.values():
        assert update.rank == 16
        assert stable_rank(update.factors.singular_values()) < 1.01


def test_intruders_resemble_no_direction_of_the_weight(tmp_path):
    path = WEIGHT["intruders_in_attention"].build(tmp_path)
    weights = TensorFile(models.path() / "unet" / "diffusion_pytorch_model.safetensors")
    for target, update in open_adapter(path).adapter.items():
        matrix = weights[f"{target.module}.weight"].astype(float)
        before = np.linalg.svd(matrix)[0]
        after = np.linalg.svd(matrix + update.factors.dense())[0]
        assert np.abs(before.T @ after[:, 0]).max() < 0.5


@pytest.mark.parametrize(("name", "spelling"), [("trigger_of_a_homoglyph", "\u00d0")])
def test_a_trigger_moves_one_token_and_hardly_any_other(name, spelling, tmp_path):
    (update,) = open_adapter(WEIGHT[name].build(tmp_path)).adapter.values()
    moved = np.linalg.norm(_first_layer_inputs()[:, 0] @ update.factors.dense().T, axis=1)
    token = _token(spelling)
    others = np.delete(moved, token)
    assert moved[token] > 5 * np.quantile(others, 0.99)


def test_a_config_names_its_targets_by_their_ends(tmp_path):
    table = json.loads((GOOD["peft_unet"].build(tmp_path) / "adapter_config.json").read_text())
    assert table["target_modules"] == ["to_k", "to_out.0", "to_q", "to_v"]
