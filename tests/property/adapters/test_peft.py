"""Laws 6 and 9: a PEFT folder gives back what was written, at scale 1."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.adapters.formats._peft_config import PEFTConfig
from loricate.adapters.formats.peft import PEFT
from loricate.adapters.tensors import TensorFile
from loricate.basics.arrays import dtype_name, to_numpy
from loricate.basics.errors import UnsupportedError
from loricate.testing.strategies import DTYPES, adapters

modules = st.sampled_from(("conv1", "encoder.conv1", "down.0.conv1", "xconv1", "to_q"))


@settings(max_examples=60)
@given(adapters(dtypes=DTYPES))
def test_reading_undoes_writing(adapter):
    with tempfile.TemporaryDirectory() as folder:
        PEFT().write(adapter, Path(folder) / "adapter")
        back = PEFT().read(Path(folder) / "adapter")
    assert dict(back.ranks) == dict(adapter.ranks)
    assert dict(back.metadata) == dict(adapter.metadata)
    for target, update in adapter.items():
        assert back[target].kernel == update.kernel
        for ours, theirs in zip(back[target].pair(), update.pair(), strict=True):
            assert dtype_name(ours) == dtype_name(theirs)
            np.testing.assert_array_equal(to_numpy(ours), to_numpy(theirs))


@settings(max_examples=30)
@given(adapters())
def test_alpha_equals_rank_in_every_place(adapter):
    with tempfile.TemporaryDirectory() as folder:
        PEFT().write(adapter, Path(folder))
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        header = TensorFile(Path(folder) / "adapter_model.safetensors").metadata
    stated = json.loads(header["lora_adapter_metadata"])
    for table, prefix in ((config, ""), (stated, "base_model.model.")):
        assert table[f"{prefix}r"] == table[f"{prefix}lora_alpha"]
        assert table[f"{prefix}rank_pattern"] == table[f"{prefix}alpha_pattern"]


@given(st.dictionaries(modules, st.integers(1, 9), min_size=1))
def test_written_patterns_name_one_module_each(ranks):
    table = PEFTConfig.of_ranks(ranks).to_table()
    config = PEFTConfig.parse(table, Path("adapter_config.json"))
    assert {m: config.scale(m, rank) for m, rank in ranks.items()} == dict.fromkeys(ranks, 1.0)


@given(
    st.integers(1, 9),
    st.integers(0, 9),
    st.booleans(),
    st.sampled_from(("", "^")),
    st.sampled_from(("encoder.conv1", r"encoder\.conv1", "conv1")),
)
def test_patterns_mean_what_peft_means(rank, alpha, rooted, anchor, name):
    other = pytest.importorskip("peft.utils.other")
    pattern = anchor + name
    table = {"r": 4, "lora_alpha": 8, "use_rslora": rooted}
    table |= {"rank_pattern": {pattern: rank}, "alpha_pattern": {pattern: alpha}}
    config = PEFTConfig.parse(table, Path("adapter_config.json"))
    for module in ("encoder.conv1", "conv1", "xencoder.conv1", "decoder.encoder.conv1"):
        key = other.get_pattern_key([pattern], module)
        stored, expected = table["rank_pattern"].get(key, 4), table["alpha_pattern"].get(key, 8)
        scale = expected / (stored**0.5 if rooted else stored)
        assert config.scale(module, stored) == scale


DOTTED = st.sampled_from(
    ("to.q", r"to\.q", "a.to.q", r"a\.to.q", "to_q", "t..q", "a.to_q", "^a.to.q", "^to.q")
)


@given(
    st.dictionaries(DOTTED, st.integers(1, 3), max_size=4),
    st.sampled_from(("to_q", "a.to_q", "b.a.to.q", "a_to_q", "to.q", "xto_q", "q")),
)
def test_a_bare_dot_is_never_read_otherwise_than_by_peft(alphas, module):
    other = pytest.importorskip("peft.utils.other")
    table = {"r": 1, "lora_alpha": 8, "alpha_pattern": alphas}
    expected = alphas.get(other.get_pattern_key(list(alphas), module), 8)
    try:
        found = PEFTConfig.parse(table, Path("adapter_config.json")).scale(module, 1)
    except UnsupportedError:
        return
    assert found == expected


def test_a_bare_dot_that_is_another_character_is_refused():
    table = {"r": 1, "lora_alpha": 1, "alpha_pattern": {"to.q": 4}}
    config = PEFTConfig.parse(table, Path("adapter_config.json"))
    with pytest.raises(UnsupportedError, match=r"'to\.q'.* 'attn1\.to_q'"):
        config.scale("attn1.to_q", 1)
    assert config.scale("attn1.to.q", 1) == 4.0
    assert config.scale("attn1.to_k", 1) == 1.0


@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_a_pattern_may_be_called_like_a_setting(key):
    patterns = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}
    table = {"r": 4, "lora_alpha": 8, patterns[key]: {key: 2}}
    config = PEFTConfig.parse(table, Path("adapter_config.json"))
    assert config.scale("conv1", 4) == 2.0
    assert config.scale(f"block.{key}", 2 if key == "r" else 4) == (4.0 if key == "r" else 0.5)


@pytest.mark.parametrize("pattern", ["(a+)+$", ".*conv1", "conv[12]", "a|b", ""])
def test_no_regex_of_a_file_ever_runs(pattern):
    table = {"r": 4, "lora_alpha": 4, "rank_pattern": {pattern: 2}}
    config = PEFTConfig.parse(table, Path("adapter_config.json"))
    with pytest.raises(UnsupportedError) as caught:
        config.scale("a" * 64, 4)
    assert repr(pattern) in caught.value.what
