"""``loricate inspect``: what it says is in the file is in the file."""

import json

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import save_adapter
from loricate.adapters.formats.diffusers import Diffusers
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.cli.exits import ExitCode
from loricate.cli.main import run

QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def inspect(capsys, path, *flags):
    assert run(["inspect", str(path), *flags, "--json"]) == ExitCode.PASS
    return json.loads(capsys.readouterr().out)


def loaders(report):
    return {each["loader"].split()[-1]: each["answer"] for each in report["loaders"]}


def test_numbers_are_those_of_the_updates(lora, tmp_path, capsys):
    adapter, path = lora(rank=3, scale=0.5), tmp_path / "lora.safetensors"
    Kohya().write(adapter, path)
    file = TensorFile(path)
    tensors = {name: np.array(file[name]) for name in file}
    for name in tensors:
        if name.endswith(".alpha"):
            tensors[name] = np.asarray(1.5, np.float32)
    save_tensors(path, tensors)
    report = inspect(capsys, path)
    assert (report["form"], report["family"], report["scale_source"]) == (
        "kohya",
        "SD 1.x",
        "tensor",
    )
    for each in report["modules"]:
        update = adapter[Target(each["component"], each["module"])]
        dense = 0.5 * update.dense().astype(np.float64)
        s = np.linalg.svd(dense.reshape(len(dense), -1), compute_uv=False)
        assert each["frobenius_norm"] == pytest.approx(float(np.linalg.norm(s)), rel=1e-6)
        assert each["spectral_norm"] == pytest.approx(float(s[0]), rel=1e-6)
        assert tuple(each["shape"]) == update.weight_shape
        assert (each["rank"], each["scale"], each["dtype"]) == (3, 0.5, "float32")
    unet = next(each for each in report["components"] if each["component"] == "unet")
    norms = [m["frobenius_norm"] for m in report["modules"] if m["component"] == "unet"]
    assert unet["total_norm"] == pytest.approx(sum(norm**2 for norm in norms) ** 0.5)
    assert unet["frobenius_norms"]["median"] == pytest.approx(float(np.median(norms)))
    assert unet["n_parameters"] == adapter.only(["unet"]).n_parameters
    assert unet["layers"] == {"linear": 2, "conv": 2}
    assert unet["kinds"] == {
        "self-attention": 1,
        "cross-attention": 1,
        "projection": 1,
        "residual block": 1,
    }


def test_ranks_are_counted_by_component(lora, tmp_path, capsys, shapes):
    updates = {}
    for rank, target in enumerate(shapes, start=1):
        updates |= lora(rank=rank, shapes={target: shapes[target]})
    save_adapter(Adapter(updates), tmp_path / "lora.safetensors", form="diffusers")
    report = inspect(capsys, tmp_path / "lora.safetensors")
    ranks = {each["component"]: each["ranks"] for each in report["components"]}
    assert ranks["unet"] == {"least": 1, "median": 2.5, "greatest": 4}
    assert ranks["text_encoder"] == {"least": 5, "median": 5, "greatest": 5}


@pytest.mark.parametrize(
    ("form", "answers"),
    [
        ("peft", ["yes", "no", "yes", "no", "no"]),
        ("diffusers", ["no", "yes", "yes", "partly", "no"]),
        ("diffusers-model", ["no", "no", "yes", "unknown", "unknown"]),
        ("kohya", ["no", "yes", "no", "yes", "yes"]),
    ],
)
def test_loaders_by_form(lora, tmp_path, capsys, form, answers):
    adapter = lora().only(["unet"])
    path = tmp_path / ("lora" if form == "peft" else "lora.safetensors")
    if form == "diffusers-model":
        Diffusers(lone=True).write(adapter, path)
    else:
        save_adapter(adapter, path, form=form)
    report = inspect(capsys, path)
    assert report["form"] == form
    assert list(loaders(report).values()) == answers
    assert all(each["why"] for each in report["loaders"] if each["answer"] in ("partly", "no"))


def test_a_vae_is_for_few(lora, tmp_path, capsys):
    adapter = lora(shapes={("vae", "encoder.mid_block.attentions.0.to_q"): (4, 4)})
    save_adapter(adapter, tmp_path / "lora.safetensors", form="diffusers")
    report = inspect(capsys, tmp_path / "lora.safetensors")
    assert list(loaders(report).values()) == ["no", "no", "yes", "no", "no"]
    assert report["components"][0]["kinds"] == {"attention": 1}


@pytest.mark.parametrize(
    ("width", "module", "family"),
    [
        (1536, "transformer_blocks.0.attn.to_q", "SD 3"),
        (3072, "single_transformer_blocks.0.attn.to_q", "Flux"),
        (99, "transformer_blocks.0.attn.to_q", None),
    ],
)
def test_transformers_are_told_by_their_width(lora, tmp_path, capsys, width, module, family):
    adapter = lora(shapes={("transformer", module): (8, width)})
    save_adapter(adapter, tmp_path / "lora.safetensors", form="diffusers")
    assert inspect(capsys, tmp_path / "lora.safetensors")["family"] == family


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "unet"),
        ("encoder.mid_block.attentions.0.to_q", "vae"),
        ("encoder.layers.0.self_attn.q_proj", "text_encoder"),
        ("transformer_blocks.0.attn.to_q", "transformer"),
        ("something.else", "model"),
    ],
)
def test_a_component_nobody_states_is_guessed(tmp_path, capsys, module, expected):
    tensors = {
        f"{module}.lora_A.weight": np.ones((2, 8), np.float32),
        f"{module}.lora_B.weight": np.ones((8, 2), np.float32),
    }
    save_tensors(tmp_path / "lora.safetensors", tensors)
    report = inspect(capsys, tmp_path / "lora.safetensors")
    assert [each["component"] for each in report["components"]] == [expected]
    assert "does not say its component" in report["notes"][-1]
    report = inspect(capsys, tmp_path / "lora.safetensors", "--component", "mine")
    assert report["components"][0]["component"] == "mine"
    assert report["notes"] == []


def test_the_hash_is_computed_and_not_believed(lora, tmp_path, capsys):
    path = tmp_path / "lora.safetensors"
    Kohya().write(lora(), path)
    assert inspect(capsys, path)["hash_holds"] is True
    file = TensorFile(path)
    tensors = {name: np.array(file[name]) for name in file}
    tensors[f"{QUERY}.lora_up.weight"][0, 0] += 1
    save_tensors(path, tensors, dict(file.metadata))
    assert inspect(capsys, path)["hash_holds"] is False
    save_tensors(path, tensors)
    assert inspect(capsys, path)["hash_holds"] is None


def test_the_page_fits_a_terminal_and_shows_no_control_characters(lora, tmp_path, capsys):
    path = tmp_path / "lora.safetensors"
    evil = "\x1b[31mred\x07" + "x" * 200
    Kohya().write(Adapter(lora(), {"ss_training_comment": evil}), path)
    assert run(["inspect", str(path)]) == ExitCode.PASS
    shown = capsys.readouterr().out
    words = ("SD 1.x", "1 self-attention", "ComfyUI", "that of the tensors")
    assert all(word in shown for word in words)
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= 100


def test_modules_are_listed_on_demand(lora, tmp_path, capsys):
    path = tmp_path / "lora.safetensors"
    Kohya().write(lora(), path)
    for flags, expected in (([], False), (["--modules"], True)):
        assert run(["inspect", str(path), *flags]) == ExitCode.PASS
        assert ("attn2.to_k" in capsys.readouterr().out) == expected


def test_a_base_of_other_shapes_is_refused(lora, tmp_path, capsys, shapes):
    save_adapter(lora(), tmp_path / "lora.safetensors", form="kohya")
    for component in ("unet", "text_encoder"):
        weights = {
            f"{module}.weight": np.zeros((2, *shape[1:]), np.float32)
            for (part, module), shape in shapes.items()
            if part == component
        }
        (tmp_path / "sd" / component).mkdir(parents=True)
        save_tensors(tmp_path / "sd" / component / "model.safetensors", weights)
    path = str(tmp_path / "lora.safetensors")
    assert run(["inspect", path, "--base", str(tmp_path / "sd")]) == ExitCode.COULD_NOT_RUN
    assert "mlp.fc1" in capsys.readouterr().err


def test_factors_whose_product_is_zero(tmp_path, capsys):
    target = Target("unet", "down_blocks.0.attentions.0.proj_in")
    update = Update.from_factors(np.zeros((2, 4), np.float32), np.ones((3, 2), np.float32))
    save_adapter(Adapter({target: update}), tmp_path / "lora.safetensors", form="diffusers")
    (module,) = inspect(capsys, tmp_path / "lora.safetensors")["modules"]
    assert (module["frobenius_norm"], module["spectral_norm"]) == (0.0, 0.0)
