"""Real clients: what pipelines, PEFT and baking make of one adapter is the same; and their files.

SD 1.5 and XL are tiny but have every block, so that every linear layer and convolution is updated
under its real name.
"""

import hashlib

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.adapters.formats.diffusers import WEIGHTS, Diffusers
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.formats.peft import PEFT
from loricate.adapters.tensors import TensorFile
from loricate.basics.arrays import to_numpy

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytest.importorskip("diffusers")

pytestmark = [
    pytest.mark.golden_live,
    # transformers warns about itself when PEFT looks at its models.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]

FAMILIES = ("sd15", "sdxl")


@pytest.fixture(autouse=True)
def _torch_generator_is_lent():
    with torch.random.fork_rng(devices=[]):
        yield


def assert_same(found, expected, parts=None):
    for part in parts or expected:
        atol = 1e-5 * float(expected[part].abs().max())
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=atol)


@pytest.fixture(params=FAMILIES)
def case(request, fresh, adapter_for, baked, outputs):
    """Family, adapter of everything, and the outputs of the pipeline it is added to."""
    # A third of the thousand layers of XL, in a stride that reaches every kind.
    adapter = adapter_for(fresh(request.param), every=3 if request.param == "sdxl" else 1)
    expected = outputs(baked(fresh(request.param), adapter))
    before = outputs(fresh(request.param))
    for part, after in expected.items():
        assert float((after - before[part]).abs().max()) > 0.01 * float(after.abs().max())
    return request.param, adapter, expected


def test_every_client_computes_the_same(case, fresh, outputs, tmp_path):
    family, adapter, expected = case
    loadable = adapter.only({*adapter.components} - {"vae"})
    for writer in (Diffusers(), Kohya()):
        path = tmp_path / "lora.safetensors"
        writer.write(loadable, path)
        pipe = fresh(family)
        pipe.load_lora_weights(str(tmp_path), weight_name=path.name, use_safetensors=True)
        assert_same(outputs(pipe), expected, expected.keys() - {"vae"})

    pipe = fresh(family)
    for part in adapter.components:
        folder = tmp_path / part
        model = pipe.components[part]
        PEFT(tower=hasattr(model, "text_model")).write(adapter.only([part]), folder)
        setattr(pipe, part, peft.PeftModel.from_pretrained(model, folder).base_model.model)
    assert_same(outputs(pipe), expected)


def test_a_vae_takes_its_part_from_the_same_file(fresh, adapter_for, baked, outputs, tmp_path):
    adapter = adapter_for(fresh("sd15"), "vae")
    save_adapter(adapter, tmp_path, form="diffusers")
    pipe = fresh("sd15")
    pipe.vae.load_lora_adapter(str(tmp_path), weight_name=WEIGHTS, prefix="vae")
    assert_same(outputs(pipe), outputs(baked(fresh("sd15"), adapter)), ["vae"])


def test_a_lone_model_takes_a_file_without_prefix(fresh, adapter_for, baked, outputs, tmp_path):
    adapter = adapter_for(fresh("sd15"), "unet", every=5)
    Diffusers(lone=True).write(adapter, tmp_path / "lora.safetensors")
    pipe = fresh("sd15")
    pipe.unet.load_lora_adapter(str(tmp_path), weight_name="lora.safetensors", prefix=None)
    assert_same(outputs(pipe), outputs(baked(fresh("sd15"), adapter)), ["unet"])


def test_the_card_tells_peft_how_to_find_a_text_encoder(
    fresh, adapter_for, baked, outputs, tmp_path
):
    adapter = adapter_for(fresh("sd15"), "text_encoder")
    save_adapter(adapter, tmp_path, form="peft")
    pipe = fresh("sd15")
    code = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert "key_mapping" in code
    names = {"PeftModel": peft.PeftModel, "model": pipe.text_encoder, "folder": tmp_path}
    exec(code, names)
    assert_same(outputs(pipe), outputs(baked(fresh("sd15"), adapter)), ["text_encoder"])


def test_text_encoders_without_attention_load(fresh, adapter_for, baked, outputs, tmp_path):
    everything = adapter_for(fresh("sd15"), "text_encoder")
    adapter = Adapter({t: update for t, update in everything.items() if ".mlp." in t.module})
    save_adapter(adapter, tmp_path / "lora.safetensors", form="diffusers")
    pipe = fresh("sd15")
    pipe.load_lora_weights(str(tmp_path), weight_name="lora.safetensors", use_safetensors=True)
    assert_same(outputs(pipe), outputs(baked(fresh("sd15"), adapter)), ["text_encoder"])


@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys:RuntimeWarning")
def test_mixed_ranks_are_why_kohya_files_are_padded(fresh, adapter_for, baked, outputs, tmp_path):
    # Fails when diffusers learns to keep the alphas of attention layers apart.
    adapter = adapter_for(fresh("sd15"), "unet")
    Kohya(pad=False).write(adapter, tmp_path / "lora.safetensors")
    pipe = fresh("sd15")
    pipe.load_lora_weights(str(tmp_path), weight_name="lora.safetensors", use_safetensors=True)
    expected = outputs(baked(fresh("sd15"), adapter))["unet"]
    assert float((outputs(pipe)["unet"] - expected).abs().max()) > 1e-3


TARGETS = ["to_q", "to_out.0", "conv1", "ff.net.2", "proj_in", "conv_in"]


def injected(pipe, rng):
    """A UNet and a text encoder with PEFT's layers of mixed ranks, alphas and random factors."""
    patterns = {"rank_pattern": {"conv1": 2}, "alpha_pattern": {"conv1": 5}}
    unet = peft.LoraConfig(r=3, lora_alpha=6, target_modules=TARGETS, **patterns)
    text = peft.LoraConfig(r=2, lora_alpha=1, target_modules=["q_proj", "fc1"])
    pipe.unet.add_adapter(unet)
    pipe.text_encoder.add_adapter(text)
    layers = {}
    for part in ("unet", "text_encoder"):
        for name, layer in pipe.components[part].named_modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer):
                weight = layer.lora_B["default"].weight
                values = rng.standard_normal(weight.shape)
                weight.data = torch.asarray(values, dtype=weight.dtype)
                tower = "text_model." if part == "text_encoder" else ""
                layers[part, tower + name] = to_numpy(layer.get_delta_weight("default"))
    return layers, {"unet": unet, "text_encoder": text}


def unscaled(layers):
    """The same without alpha and rank, as in files that do not state them."""

    def scale(part, module):
        if part == "text_encoder":
            return 1 / 2
        return 5 / 2 if module.endswith("conv1") else 6 / 3

    return {target: delta / scale(*target) for target, delta in layers.items()}


def assert_read(found, layers):
    assert found.keys() == layers.keys()
    for target, delta in layers.items():
        atol = 1e-6 * float(np.linalg.norm(delta))
        np.testing.assert_allclose(found[target].dense(), delta, rtol=0, atol=atol)


def state(pipe, part):
    return peft.get_peft_model_state_dict(pipe.components[part])


def test_we_read_what_pipelines_write(fresh, rng, tmp_path):
    pipe = fresh("sd15")
    layers, configs = injected(pipe, rng)
    metadata = {
        f"{part}_lora_adapter_metadata": config.to_dict() for part, config in configs.items()
    }
    pipe.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=state(pipe, "unet"),
        text_encoder_lora_layers=state(pipe, "text_encoder"),
        **metadata,
    )
    found = open_adapter(tmp_path)
    assert (found.form, found.scale_source) == ("diffusers", "header")
    assert_read(found.adapter, layers)


def test_we_read_names_of_training_scripts(fresh, rng, tmp_path):
    from diffusers.utils import convert_state_dict_to_diffusers

    pipe = fresh("sd15")
    layers, configs = injected(pipe, rng)
    # They write the old names for attention and leave the others, and no scale.
    old = {part: convert_state_dict_to_diffusers(state(pipe, part)) for part in configs}
    assert {"lora_A" in key for key in old["unet"]} == {True, False}
    pipe.save_lora_weights(
        str(tmp_path),
        unet_lora_layers=old["unet"],
        text_encoder_lora_layers=old["text_encoder"],
    )
    found = open_adapter(tmp_path)
    assert found.scale_source == "absent"
    assert_read(found.adapter, unscaled(layers))


def test_we_read_what_a_model_writes(fresh, rng, tmp_path):
    pipe = fresh("sd15")
    layers, _ = injected(pipe, rng)
    pipe.unet.save_lora_adapter(str(tmp_path), upcast_before_saving=True)
    found = open_adapter(tmp_path, component="unet")
    assert (found.form, found.scale_source) == ("diffusers-model", "header")
    assert_read(found.adapter, {t: delta for t, delta in layers.items() if t[0] == "unet"})


def test_we_read_what_diffusers_converts_to_kohya(fresh, rng, tmp_path):
    from diffusers.utils import convert_state_dict_to_kohya
    from safetensors.torch import save_file

    pipe = fresh("sd15")
    layers, configs = injected(pipe, rng)
    tensors = {
        f"{part}.{key}": tensor.contiguous()
        for part in configs
        for key, tensor in state(pipe, part).items()
    }
    save_file(convert_state_dict_to_kohya(tensors), tmp_path / "lora.safetensors")
    found = open_adapter(tmp_path)
    # It states alpha == rank whatever alpha was.
    assert (found.form, found.scale_source) == ("kohya", "tensor")
    assert {update.factors.scale for update in found.adapter.values()} == {1.0}
    assert_read(found.adapter, unscaled(layers))


def test_we_read_what_peft_writes_of_a_text_encoder(fresh, rng, tmp_path):
    encoder = fresh("sd15").text_encoder
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "fc1"])
    model = peft.get_peft_model(encoder, config)
    layers = {}
    for name, layer in encoder.named_modules():
        if isinstance(layer, peft.tuners.lora.LoraLayer):
            weight = layer.lora_B["default"].weight
            weight.data = torch.asarray(rng.standard_normal(weight.shape), dtype=weight.dtype)
            delta = to_numpy(layer.get_delta_weight("default"))
            layers["text_encoder", f"text_model.{name}"] = delta
    model.save_pretrained(tmp_path)
    found = open_adapter(tmp_path, component="text_encoder")
    assert (found.form, found.scale_source) == ("peft", "config")
    assert_read(found.adapter, layers)


def test_hashes_are_the_trainers(rng, tmp_path):
    from safetensors.torch import load_file, save

    path = tmp_path / "lora.safetensors"
    a, b = rng.standard_normal((4, 40_000)), rng.standard_normal((40_000, 4))
    save_adapter(Adapter({("unet", "conv_in"): Update.from_factors(a, b)}), path, form="kohya")
    metadata = TensorFile(path).metadata
    # The trainer hashes the file as it would be with its own keys alone in the header.
    own = {key: text for key, text in metadata.items() if key.startswith("ss_")}
    content = save(load_file(path), own)
    start = 8 + int.from_bytes(content[:8], "little")
    assert metadata["sshs_model_hash"] == hashlib.sha256(content[start:]).hexdigest()
    legacy = content[0x100000 : 0x100000 + 0x10000]
    assert len(legacy) == 0x10000
    assert metadata["sshs_legacy_hash"] == hashlib.sha256(legacy).hexdigest()[:8]


def test_our_table_has_every_layer_of_the_real_models(pipelines):
    from loricate.adapters import sgm

    for family, pipe in (("sd1", pipelines["sd15"]), ("sdxl", pipelines["sdxl"])):
        for part in ("unet", "vae", "text_encoder_2"):
            model = pipe.components.get(part)
            names = [
                name
                for name, module in (() if model is None else model.named_modules())
                if getattr(module, "weight", None) is not None
            ]
            assert set(names) <= sgm.modules(part, family).keys()
