"""Modules that the base lacks."""

import numpy as np
import pytest

from loricate import models
from loricate.integrity.finding import Severity
from loricate.integrity.rules.foreign_modules import ForeignModules
from loricate.testing.corpora._adapters import adapter_for, kohya_tensors, spelled
from loricate.testing.corpora._layers import embedded, stable_diffusion

BASE = models.path("emoji-sd")
PLAIN = (".lora_A.weight", ".lora_B.weight")
CROSS = r"^mid_block.*attn2\."


def test_every_spelling_of_the_base_is_clean(judged):
    adapter = adapter_for(embedded("unet", CROSS))
    text = adapter_for(embedded("text_encoder", "self_attn"))
    for tensors in (
        kohya_tensors(adapter) | kohya_tensors(text),
        spelled(adapter, *PLAIN),
        spelled(adapter, *PLAIN, lambda target: f"base_model.model.{target.module}"),
        spelled(text, *PLAIN, lambda target: target.module.removeprefix("text_model.")),
    ):
        assert not judged(ForeignModules(), tensors, base=BASE)


def test_a_module_of_another_family_fires(judged):
    tensors = kohya_tensors(adapter_for(stable_diffusion("sd1", "unet", r"^down_blocks\.2.*attn2")))
    (found,) = judged(ForeignModules(), tensors, base=BASE)
    assert found.severity is Severity.MEDIUM
    assert found.evidence["n_modules"] == len(tensors) // 3
    assert "no module" in found.message


@pytest.mark.parametrize(
    "name", ["unet.my_layer", "lora_unet_my_layer", "base_model.model.my_layer"]
)
def test_an_unknown_name_fires_in_every_scheme(judged, pair, name):
    ends = (".lora_down.weight", ".lora_up.weight") if name.startswith("lora_") else PLAIN
    (found,) = judged(ForeignModules(), pair(name, ends=ends), base=BASE)
    assert found.where == name


def test_another_width_fires(judged):
    layers = embedded("unet", CROSS)
    wider = {t: layer._replace(shape=(layer.shape[0], 768)) for t, layer in layers.items()}
    (found,) = judged(ForeignModules(), spelled(adapter_for(wider), *PLAIN), base=BASE)
    assert "768" in found.message


def test_a_model_is_no_adapter(judged):
    assert not judged(ForeignModules(), {"my.layer.weight": np.ones((3, 3))}, base=BASE)
