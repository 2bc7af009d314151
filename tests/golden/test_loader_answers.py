"""What ``loricate inspect`` says that diffusers does with a file is what diffusers does."""

import ast
import json

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.diffusers import Diffusers
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.formats.peft import CONFIG, PEFT, WEIGHTS
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.recipes.inspect import inspect

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

pytestmark = [
    pytest.mark.golden_live,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The following alpha_pattern keys:RuntimeWarning"),
]

PIPELINE = "diffusers pipe.load_lora_weights"
MODEL = "diffusers model.load_lora_adapter"
QUERY, MLP, OUT = (
    f"text_model.encoder.layers.0.{end}"
    for end in ("self_attn.q_proj", "mlp.fc1", "self_attn.out_proj")
)
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture
def adapter(fresh, rng):
    """Makes an adapter of named modules and ranks."""
    pipe = fresh("sd15")

    def made(ranks):
        updates = {}
        for (component, module), rank in ranks.items():
            known = dict(pipe.components[component].named_modules())
            layer = known.get(module) or known[module.removeprefix("text_model.")]
            d_out, *rest = layer.weight.shape
            a = rng.standard_normal((rank, *rest)).astype(np.float32)
            b = rng.standard_normal((d_out, rank, *(1 for _ in rest[1:]))).astype(np.float32)
            scale = 0.5 / float(np.sqrt(a[0].size * rank))
            updates[Target(component, module)] = Update.from_factors(a, b, scale)
        return Adapter(updates)

    return made


@pytest.fixture
def outcome(fresh, baked, outputs):
    """Whether loading gives the same as baking, gives something else, or nothing."""

    def found(adapter, load):
        expected, before = outputs(baked(fresh("sd15"), adapter)), outputs(fresh("sd15"))
        pipe = fresh("sd15")
        with torch.random.fork_rng(devices=[]):
            try:
                load(pipe)
            except (ValueError, KeyError, IndexError, OSError):
                return "no"
        after = outputs(pipe)

        def is_same(one, other):
            return all(torch.allclose(one[part], other[part], atol=1e-4) for part in one)

        assert not is_same(expected, before)
        return "yes" if is_same(after, expected) else "no" if is_same(after, before) else "partly"

    return found


UNET = {("unet", f"{ATTENTION}.to_q"): 2, ("unet", f"{ATTENTION}.to_k"): 2}
TEXT = {("text_encoder", QUERY): 2, ("text_encoder", OUT): 2}
VAE = {("vae", "encoder.conv_in"): 2}
CASES = {
    "unet and text": {**UNET, **TEXT},
    "with a vae": {**UNET, **VAE},
    "only a vae": VAE,
    "mixed attention": {**UNET, ("unet", f"{ATTENTION}.to_v"): 3},
    "mixed elsewhere": {**UNET, ("unet", "down_blocks.0.resnets.0.conv1"): 3},
    "mixed text": {**TEXT, ("text_encoder", MLP): 3},
    "text without out_proj": {("text_encoder", QUERY): 2, ("text_encoder", MLP): 2},
}


FORMS = {"diffusers": Diffusers(), "kohya": Kohya(), "kohya of mixed ranks": Kohya(pad=False)}
PAIRS = [
    *(("diffusers", case) for case in ("unet and text", "with a vae", "only a vae")),
    *(("kohya of mixed ranks", case) for case in CASES if "vae" not in case),
    ("kohya", "mixed text"),
]


def answers(path):
    return {each.loader: each for each in inspect(path).loaders}


def pipeline_loads(file):
    def load(pipe):
        name = {"weight_name": file.name, "use_safetensors": True}
        pipe.load_lora_weights(str(file.parent), **name)

    return load


@pytest.mark.parametrize(("form", "case"), PAIRS)
def test_pipelines(adapter, outcome, tmp_path, form, case):
    given, file = adapter(CASES[case]), tmp_path / "lora.safetensors"
    FORMS[form].write(given, file)
    assert answers(file)[PIPELINE].answer == outcome(given, pipeline_loads(file))


def renamed(file, names):
    """A copy of a file whose names begin differently."""
    tensors = TensorFile(file)
    ((before, after),) = names.items()
    copied = {name.replace(before, after): np.array(tensors[name]) for name in tensors}
    out = file.with_name("renamed.safetensors")
    save_tensors(out, copied)
    return out


@pytest.mark.parametrize(
    "names",
    [
        {"lora_unet_": "lycoris_"},
        {
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_": (
                "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_"
            )
        },
    ],
    ids=["lycoris", "comfy"],
)
def test_pipelines_do_not_know_other_names(adapter, outcome, tmp_path, names):
    given = adapter(UNET)
    Kohya().write(given, tmp_path / "lora.safetensors")
    file = renamed(tmp_path / "lora.safetensors", names)
    found = {each.loader: each.answer for each in inspect(file, component="unet").loaders}
    assert found[PIPELINE] == outcome(given, pipeline_loads(file)) == "no"


def without_header(folder):
    """A folder as PEFT writes it, with a scale that only the config states."""
    file = TensorFile(folder / WEIGHTS)
    save_tensors(folder / WEIGHTS, {name: np.array(file[name]) for name in file})
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "lora_alpha": 2 * config["r"]}))


@pytest.mark.parametrize("form", ["peft", "peft of others", "diffusers", "lone", "kohya"])
def test_models(adapter, outcome, tmp_path, form):
    given = adapter(UNET)
    path = tmp_path / "lora" if "peft" in form else tmp_path / "lora.safetensors"
    file = path / WEIGHTS if "peft" in form else path
    writers = {"diffusers": Diffusers(), "lone": Diffusers(lone=True), "kohya": Kohya()}
    writers.get(form, PEFT()).write(given, path)
    if form == "peft of others":
        without_header(path)
        given = given.scaled(2)
    said = answers(path)
    prefix = said[MODEL].why.partition("prefix=")[2].partition(";")[0]

    def load(pipe):
        name = {"weight_name": file.name, "use_safetensors": True}
        options = {"prefix": ast.literal_eval(prefix)} if prefix else {}
        pipe.unet.load_lora_adapter(str(file.parent), **name, **options)

    assert said[MODEL].answer == outcome(given, load)
    assert said[PIPELINE].answer == outcome(given, pipeline_loads(file))
