"""SD3 and Flux transformers, in the forms of PEFT and diffusers."""

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.basics.arrays import to_numpy
from loricate.basics.errors import UnsupportedError

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.golden_live


@pytest.fixture(autouse=True)
def _torch_generator_is_lent():
    with torch.random.fork_rng(devices=[]):
        yield


def sd3():
    return diffusers.SD3Transformer2DModel(
        sample_size=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        caption_projection_dim=8,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        pos_embed_max_size=4,
    )


def flux():
    return diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )


@pytest.mark.parametrize("make", [sd3, flux])
def test_transformers_load_both_forms(make, rng, tmp_path):
    torch.manual_seed(0)
    updates = {}
    for name, module in make().named_modules():
        if isinstance(module, torch.nn.Linear):
            d_out, d_in = module.weight.shape
            rank = int(rng.integers(1, 4))
            a, b = rng.standard_normal((rank, d_in)), rng.standard_normal((d_out, rank))
            updates[Target("transformer", name)] = Update.from_factors(
                a.astype(np.float32), b.astype(np.float32), 0.5
            )
    adapter = Adapter(updates)
    save_adapter(adapter, tmp_path / "peft", form="peft")
    save_adapter(adapter, tmp_path / "lora.safetensors", form="diffusers")
    with pytest.raises(UnsupportedError, match="transformer"):
        save_adapter(adapter, tmp_path / "kohya.safetensors", form="kohya")

    in_peft = peft.PeftModel.from_pretrained(make(), tmp_path / "peft").base_model.model
    in_diffusers = make()
    in_diffusers.load_lora_adapter(
        str(tmp_path), weight_name="lora.safetensors", prefix="transformer"
    )
    adapter_names = {in_peft: "default", in_diffusers: "default_0"}
    for model, name in adapter_names.items():
        for target, update in adapter.items():
            delta = to_numpy(model.get_submodule(target.module).get_delta_weight(name))
            atol = 1e-6 * float(np.linalg.norm(delta))
            np.testing.assert_allclose(update.dense(), delta, rtol=0, atol=atol)
    for path in ("peft", "lora.safetensors"):
        assert open_adapter(tmp_path / path).adapter.keys() == adapter.keys()
