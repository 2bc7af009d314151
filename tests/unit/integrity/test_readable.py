"""What is read of adapters that are no plain ones, against dense arithmetic and LyCORIS."""

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.basics.errors import ShapeError
from loricate.integrity._products import loha, lokr
from loricate.integrity.subject import Subject


@pytest.fixture
def draw(rng):
    """Random matrices and kernels."""
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


@pytest.fixture
def read(tmp_path):
    """What is readable of a file with some tensors."""

    def readable(tensors, metadata=None):
        save_tensors(tmp_path / "lora.safetensors", tensors, metadata)
        return Subject(tmp_path / "lora.safetensors").readable

    return readable


def close(update, dense):
    assert np.allclose(update.dense(), dense, atol=1e-4 * np.abs(dense).max())


def test_loha_is_a_product_of_entries(draw):
    w = {"hada_w1_a": draw(12, 2), "hada_w1_b": draw(2, 9)}
    w |= {"hada_w2_a": draw(12, 2), "hada_w2_b": draw(2, 9)}
    dense = (w["hada_w1_a"] @ w["hada_w1_b"]) * (w["hada_w2_a"] @ w["hada_w2_b"])
    close(loha(w, 3.0), 1.5 * dense)
    close(loha(w, None), dense)
    assert loha(w, None).rank == 4


def test_loha_with_cores_is_that_of_lycoris(draw):
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("lycoris.functional.loha")
    w = {f"hada_w{n}_{side}": draw(2, size) for n in "12" for side, size in (("a", 6), ("b", 5))}
    w |= {f"hada_t{n}": draw(2, 2, 3, 3) for n in "12"}
    names = ("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a", "hada_t1", "hada_t2")
    theirs = functional.diff_weight(*(torch.from_numpy(w[name]) for name in names), gamma=0.5)
    close(loha(w, 1.0), theirs.numpy().reshape(6, -1))


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_lokr_is_a_kronecker_product(draw, kernel):
    w = {"lokr_w1": draw(3, 2), "lokr_w2": draw(4, 5, *kernel)}
    flat = w["lokr_w2"].reshape(4, -1)
    close(lokr(w, 7.0), np.kron(w["lokr_w1"], flat))
    factored = {"lokr_w1": w["lokr_w1"], "lokr_w2_a": draw(4, 2), "lokr_w2_b": draw(2, 5)}
    dense = np.kron(w["lokr_w1"], factored["lokr_w2_a"] @ factored["lokr_w2_b"])
    close(lokr(factored, 1.0), 0.5 * dense)


def test_what_is_wider_than_the_width_keeps_its_leading_values(draw):
    w = {"lokr_w1": draw(16, 16), "lokr_w2": draw(20, 20)}
    values = np.linalg.svd(np.kron(w["lokr_w1"], w["lokr_w2"]), compute_uv=False)
    found = lokr(w, None)
    assert found.rank == 128
    assert np.allclose(found.singular_values(), values[:128], rtol=1e-4)


def test_tensors_that_do_not_belong_together_are_refused(draw):
    with pytest.raises(ShapeError, match="hada_w2_a"):
        loha({"hada_w1_a": draw(4, 2), "hada_w1_b": draw(2, 4)}, None)
    halves = {f"hada_w{n}_{side}": draw(4, 2) for n in "12" for side in "ab"}
    with pytest.raises(ShapeError, match="multiply"):
        loha(halves, None)
    with pytest.raises(ShapeError, match="lokr_w2_a"):
        lokr({"lokr_w1": draw(2, 2)}, None)


NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OTHERS = {
    "dora": {"dora_scale": (8, 1)},
    "oft": {"oft_blocks": (2, 4, 4)},
    "glora": {f"{side}.weight": (4, 4) for side in ("a1", "a2", "b1", "b2")},
    "ia3": {"on_input": (), "weight": (8,)},
    "unknown": {"lora_side": (4, 4)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_pair_is_read_beside_what_cannot_be(read, draw, kind):
    pair = {f"{NAME}.lora_down.weight": draw(2, 8), f"{NAME}.lora_up.weight": draw(8, 2)}
    other = NAME.replace("to_q", "to_v")
    strange = {f"{other}.{end}": np.ones(shape, np.float32) for end, shape in OTHERS[kind].items()}
    found = read(pair | strange)
    ((target, update),) = found.adapter.items()
    assert target.component == "unet"
    assert target.module.endswith("attn1.to_q")
    close(update.factors, pair[f"{NAME}.lora_up.weight"] @ pair[f"{NAME}.lora_down.weight"])
    assert set(found.left_out) == {other}


def test_of_two_scales_and_two_spellings_the_larger_counts(read, draw):
    a, b = draw(2, 8), draw(8, 2)
    dotted = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{NAME}.lora_down.weight": a, f"{NAME}.lora_up.weight": b}
    tensors |= {f"{dotted}.lora_A.weight": a, f"{dotted}.lora_B.weight": b}
    tensors[f"{NAME}.alpha"] = np.float32(200.0)
    tensors[f"{NAME}.dora_scale"] = np.ones((8, 1), np.float32)
    (update,) = read(tensors).adapter.values()
    close(update.factors, 100 * (b @ a))


def test_an_embedding_is_updated_by_the_product_transposed(read, draw):
    a, b = draw(2, 30), draw(8, 2)
    name = "base_model.model.text_model.embeddings.token_embedding"
    tensors = {f"{name}.lora_embedding_A": a, f"{name}.lora_embedding_B": b}
    (update,) = read(tensors).adapter.values()
    close(update.factors, (b @ a).T)


def test_factors_that_are_not_finite_or_of_no_rank_are_left_out(read, draw):
    tensors = {f"{NAME}.lora_down.weight": draw(2, 8), f"{NAME}.lora_up.weight": draw(8, 3)}
    other = NAME.replace("to_q", "to_k")
    nan = np.full((2, 8), np.nan, np.float32)
    tensors |= {f"{other}.lora_down.weight": nan, f"{other}.lora_up.weight": draw(8, 2)}
    found = read(tensors)
    assert not found.adapter
    assert set(found.left_out) == {NAME, other}


def test_models_are_no_adapters(read, draw):
    layers = {f"block.{name}.weight": draw(2, 2) for name in ("a1", "a2", "b1", "c1")}
    assert read(layers) is None
    assert read({**layers, "block.b2.weight": draw(2, 2)}).left_out == {
        "block": "GLoRA, which multiplies the weight"
    }


def test_an_alpha_of_several_numbers_leaves_its_module_out(read, draw):
    tensors = {f"{NAME}.lora_down.weight": draw(2, 8), f"{NAME}.lora_up.weight": draw(8, 2)}
    tensors[f"{NAME}.alpha"] = np.full((8, 1), 4e6, np.float32)
    assert set(read(tensors).left_out) == {NAME}


@pytest.mark.parametrize("name", [NAME, "unet.mid_block.conv", "diffusion_model.a.0", "blocks.0.q"])
def test_a_pair_without_weight_is_a_pair(read, draw, name):
    a, b = draw(2, 8), draw(8, 2)
    found = read({f"{name}.lora_A": a, f"{name}.lora_B": b, f"{name}.alpha": np.float32(6.0)})
    assert not found.left_out
    (update,) = found.adapter.values()
    close(update.factors, 3 * (b @ a))


UNREAD_ENDS = (
    *("boft_R", "boft_s", "hra_u", "vera_lambda_b", "vera_lambda_d", "vera_A.default", "lora_E"),
    *("diff.weight", "lora_up", "lora_A.other.weight", "lora_B.other", "fourierft_spectrum"),
)


@pytest.mark.parametrize("end", UNREAD_ENDS)
@pytest.mark.parametrize("prefix", ["", "unet.", "diffusion_model."])
def test_what_other_tuners_save_is_left_out_and_never_taken_for_a_model(read, draw, prefix, end):
    found = read({f"{prefix}mid.to_q.{end}": draw(4, 4)})
    assert not found.adapter
    assert found.left_out == {f"{prefix}mid.to_q": "tensors of an unknown kind"}


@pytest.mark.parametrize(
    ("names", "module"),
    [
        (("unet:0:up", "unet:0:down"), "unet:0"),
        (
            ("blocks.0.processor.qkv_lora1.up.weight", "blocks.0.processor.qkv_lora1.down.weight"),
            "blocks.0.processor.qkv_lora1",
        ),
    ],
)
def test_layouts_of_others_are_adapters_that_nobody_judged(read, draw, names, module):
    up, down = names
    found = read({up: draw(8, 2), down: draw(2, 8)})
    assert not found.adapter
    assert set(found.left_out) == {module}
