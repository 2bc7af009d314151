"""Files that LyCORIS writes itself: LoCon is read, every other algorithm refused by its name."""

import logging

import numpy as np
import pytest

from loricate.adapters.files import open_adapter, save_adapter
from loricate.basics.arrays import to_numpy
from loricate.basics.errors import UnsupportedError

torch = pytest.importorskip("torch")
lycoris = pytest.importorskip("lycoris")
pytestmark = pytest.mark.golden_live


@pytest.fixture(autouse=True)
def _torch_generator_is_lent():
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def unet(fresh):
    return fresh("sd15").unet


@pytest.fixture
def wrapped(rng, tmp_path, monkeypatch):
    """Path of a file of LyCORIS, and the network it was written from."""

    def made(model, prefix="lora_unet", **settings):
        lycoris.logger.setLevel(logging.ERROR)
        monkeypatch.setattr(lycoris.LycorisNetwork, "LORA_PREFIX", prefix)
        network = lycoris.create_lycoris(
            model, linear_dim=3, linear_alpha=2.0, conv_dim=2, conv_alpha=1.0, **settings
        )
        network.apply_to()
        for parameter in network.parameters():
            values = 0.1 * rng.standard_normal(parameter.shape)
            parameter.data = torch.asarray(values, dtype=parameter.dtype)
        path = tmp_path / "lora.safetensors"
        network.save_weights(str(path), torch.float32, {"ss_network_module": "lycoris.kohya"})
        return path, network

    return made


@pytest.mark.parametrize("settings", [{}, {"use_tucker": True}, {"rs_lora": True}])
def test_we_read_locon(unet, wrapped, settings, tmp_path):
    path, network = wrapped(unet, **settings)
    found = open_adapter(path)
    assert (found.form, found.scale_source) == ("kohya", "tensor")
    assert any("Tucker" in note for note in found.notes) == ("use_tucker" in settings)
    modules = {module.replace(".", "_"): module for _, module in found.adapter}
    assert len(modules) == len(network.loras) > 250
    again = tmp_path / "again.safetensors"
    save_adapter(found.adapter, again, form="kohya")
    for adapter in (found.adapter, open_adapter(again).adapter):
        for lora in network.loras:
            target = "unet", modules[lora.lora_name.removeprefix("lora_unet_")]
            delta = to_numpy(lora.get_diff_weight()[0]).reshape(adapter[target].weight_shape)
            atol = 1e-6 * float(np.linalg.norm(delta))
            np.testing.assert_allclose(adapter[target].dense(), delta, rtol=0, atol=atol)


def test_the_wrapper_of_a_lone_model_needs_its_name(unet, wrapped):
    path, network = wrapped(unet.mid_block, prefix="lycoris_mid_block")
    found = open_adapter(path, component="unet").adapter
    assert len(found) == len(network.loras)
    assert {module.partition(".")[0] for _, module in found} == {"mid_block"}


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"algo": "loha"}, "LoHa"),
        ({"algo": "lokr", "factor": 2}, "LoKr"),
        ({"algo": "full"}, "full difference"),
        ({"algo": "glora"}, "GLoRA"),
        ({"algo": "ia3"}, "IA3"),
        ({"algo": "diag-oft"}, "OFT"),
        ({"dora_wd": True}, "DoRA"),
    ],
)
def test_we_refuse_other_algorithms(unet, wrapped, settings, kind):
    path, _ = wrapped(unet.mid_block.attentions[0], "lora_unet_mid_block_attentions_0", **settings)
    with pytest.raises(UnsupportedError, match=kind) as caught:
        open_adapter(path)
    assert "lora_unet_mid_block_attentions_0" in caught.value.what
