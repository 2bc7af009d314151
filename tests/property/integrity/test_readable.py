"""Whatever tensors a file mixes, a scan of it ends in a verdict."""

import json

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16, float8_e4m3fn

from loricate.adapters.tensors import save_tensors
from loricate.integrity.scan import all_rules, scan

RULES = all_rules()
NAMES = (
    "lora_unet_mid_block_attentions_0_proj_in",
    "unet.mid_block.attentions.0.proj_in",
    "base_model.model.mid_block.attentions.0.proj_in",
    "lycoris_mid_block_attentions_0_proj_in",
)
ENDS = (
    *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "lora_A.weight"),
    *("lora_B.weight", "lora_embedding_A", "lora_embedding_B", "dora_scale", "on_input"),
    *(f"hada_w{n}_{side}" for n in "12" for side in "ab"),
    *("hada_t1", "hada_t2", "lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    *("oft_blocks", "a1.weight", "a2.weight", "b1.weight", "b2.weight", "diff", "what"),
)
ARRAYS = st.builds(
    lambda shape, dtype, value: np.full(shape, value).astype(dtype),
    st.lists(st.integers(0, 4), max_size=4),
    st.sampled_from([np.float32, np.float64, np.float16, bfloat16, float8_e4m3fn, np.int8]),
    st.sampled_from([0.0, 1.0, -2.0, 100.0]),
)
TENSORS = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(ENDS)).map(".".join), ARRAYS, max_size=9
)
VALUES = st.none() | st.booleans() | st.sampled_from([4, 0, 1e308, 10**400, "x", [1], {"a": 4}])
CONFIGS = st.dictionaries(
    st.sampled_from(["r", "lora_alpha", "alpha_pattern", "rank_pattern", "use_rslora"]), VALUES
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(tensors=TENSORS, config=CONFIGS | st.none())
def test_any_mixture_is_judged(tmp_path, tensors, config):
    path = tmp_path / "adapter_model.safetensors"
    save_tensors(path, tensors)
    (tmp_path / "adapter_config.json").unlink(missing_ok=True)
    if config is not None:
        text = json.dumps({"peft_type": "LORA", **config})
        (tmp_path / "adapter_config.json").write_text(text)
    with np.errstate(all="raise", under="ignore"):
        report = scan([path], rules=RULES)
    assert report.outcome() in ("pass", "fail", "inconclusive")
