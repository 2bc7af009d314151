"""Names with underscores, alpha, LoCon's kernels and cores, ComfyUI's own names, metadata."""

import hashlib
import json

import ml_dtypes
import numpy as np
import pytest

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import ConfigError, ShapeError, UnsupportedError

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
FC1 = "text_model.encoder.layers.0.mlp.fc1"
DEEP_Q = "mid_block.attentions.0.transformer_blocks.9.attn1.to_q"
XL_Q = "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_out.0"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lora.safetensors"


def under(module):
    return module.replace(".", "_")


def pair(rng, name, rank=2, d_out=3, kernel=(5,), alpha=None):
    ones = (1,) * (len(kernel) - 1)
    tensors = {
        f"{name}.lora_down.weight": rng.standard_normal((rank, *kernel)),
        f"{name}.lora_up.weight": rng.standard_normal((d_out, rank, *ones)),
    }
    return tensors if alpha is None else {**tensors, f"{name}.alpha": np.asarray(alpha)}


def product(tensors, name):
    down, up = (tensors[f"{name}.lora_{side}.weight"] for side in ("down", "up"))
    dense = up.reshape(len(up), -1) @ down.reshape(len(down), -1)
    return dense.reshape(len(up), *down.shape[1:])


@pytest.mark.parametrize(
    ("name", "component", "module"),
    [
        (f"lora_unet_{under(Q)}", "unet", Q),
        (f"lora_unet_{under(XL_Q)}", "unet", XL_Q),
        ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_out_0", "unet", XL_Q),
        ("lora_unet_time_embedding_linear_1", "unet", "time_embedding.linear_1"),
        ("lora_unet_label_emb_0_2", "unet", "add_embedding.linear_2"),
        ("lora_unet_output_blocks_2_2_conv", "unet", "up_blocks.0.upsamplers.0.conv"),
        (f"lora_te_{under(FC1)}", "text_encoder", FC1),
        (f"lora_te1_{under(FC1)}", "text_encoder", FC1),
        (f"lora_te2_{under(FC1)}", "text_encoder_2", FC1),
        ("lora_te2_encoder_layers_0_mlp_fc1", "text_encoder_2", FC1),
        ("lora_te2_text_projection", "text_encoder_2", "text_projection"),
        ("diffusion_model.input_blocks.4.1.transformer_blocks.1.attn2.to_out.0", "unet", XL_Q),
        (f"text_encoders.clip_l.transformer.{FC1}", "text_encoder", FC1),
        (f"text_encoders.clip_g.transformer.{FC1}", "text_encoder_2", FC1),
    ],
)
def test_names_lead_to_modules(path, rng, name, component, module):
    tensors = pair(rng, name, alpha=4.0)
    save_tensors(path, tensors)
    found = open_adapter(path)
    assert found.form == ("kohya" if name.startswith("lora_") else "comfy")
    assert found.scale_source == "tensor"
    ((target, update),) = found.adapter.items()
    assert target == (component, module)
    np.testing.assert_allclose(update.dense(), 2 * product(tensors, name), rtol=1e-14)


@pytest.mark.parametrize(
    ("alpha", "scale", "source"),
    [
        (None, 1.0, "absent"),
        (0.0, 1.0, "absent"),
        (np.float16(1), 0.5, "tensor"),
        (np.asarray([3.0], ml_dtypes.bfloat16), 1.5, "tensor"),
        (np.int64(2), 1.0, "tensor"),
    ],
)
def test_alpha_that_is_absent_or_zero_means_the_rank(path, rng, alpha, scale, source):
    save_tensors(path, pair(rng, f"lora_unet_{under(Q)}", alpha=alpha))
    found = open_adapter(path)
    assert found.scale_source == source
    assert found.adapter["unet", Q].factors.scale == scale


def test_alpha_in_the_header_alone_is_reported(path, rng):
    stated = {"ss_network_dim": "2", "ss_network_alpha": "1"}
    save_tensors(path, pair(rng, f"lora_unet_{under(Q)}"), stated)
    found = open_adapter(path)
    assert found.adapter["unet", Q].factors.scale == 1.0
    assert found.notes == (
        "the header says ss_network_alpha '1' at rank '2', which no loader reads",
    )


@pytest.mark.parametrize(
    ("stated", "stored", "told"),
    [
        ("1", (4.0, 4.0), "the header says ss_network_alpha '1' and the tensors 4"),
        ("1.0", (2.0, 4.0), "the header says ss_network_alpha '1.0' and the tensors 2 to 4"),
        ("4.0", (2.0, 4.0), None),
        ("0.1", (np.float16(0.1), np.float16(0.1)), None),
        ("1", (0.0, 0.0), None),
        ("Dynamic", (2.0, 4.0), None),
    ],
)
def test_a_header_that_differs_from_alpha_is_reported(path, rng, stated, stored, told):
    tensors = {}
    for module, alpha in zip((Q, XL_Q), stored, strict=True):
        tensors |= pair(rng, f"lora_unet_{under(module)}", alpha=alpha)
    save_tensors(path, tensors, {"ss_network_alpha": stated, "ss_network_dim": "2"})
    notes = [note for note in open_adapter(path).notes if "header" in note]
    assert notes == ([] if told is None else [f"{told}, which all loaders go by"])


@pytest.mark.parametrize("alpha", [np.ones(2), np.asarray("nan", float)])
def test_alpha_is_one_finite_number(path, rng, alpha):
    save_tensors(path, pair(rng, f"lora_unet_{under(Q)}", alpha=alpha))
    with pytest.raises(Exception, match=r"one number|finite"):
        open_adapter(path)


@pytest.mark.parametrize("kernel", [(4, 1, 1), (4, 3, 3)])
def test_convolutions_of_locon(path, rng, kernel):
    tensors = pair(rng, "lora_unet_conv_in", kernel=kernel)
    save_tensors(path, tensors)
    update = open_adapter(path).adapter["unet", "conv_in"]
    assert update.kernel == kernel
    np.testing.assert_allclose(update.dense(), product(tensors, "lora_unet_conv_in"), rtol=1e-14)


@pytest.mark.parametrize("squeezed", ["lora_up", "lora_down"])
def test_a_factor_without_the_axes_of_a_1x1_kernel(path, rng, squeezed):
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    tensors = pair(rng, name, kernel=(4, 1, 1))
    key = f"{name}.{squeezed}.weight"
    save_tensors(path, {**tensors, key: tensors[key][..., 0, 0]})
    (update,) = open_adapter(path).adapter.values()
    assert update.kernel == (4, 1, 1)
    np.testing.assert_allclose(update.dense(), product(tensors, name), rtol=1e-14)


def tucker(rng, ranks=(2, 3)):
    out, inner = ranks
    return {
        "lora_unet_conv_in.lora_up.weight": rng.standard_normal((5, out, 1, 1)),
        "lora_unet_conv_in.lora_mid.weight": rng.standard_normal((out, inner, 3, 3)),
        "lora_unet_conv_in.lora_down.weight": rng.standard_normal((inner, 4, 1, 1)),
        "lora_unet_conv_in.alpha": np.asarray(6.0),
    }


@pytest.mark.parametrize("ranks", [(2, 2), (2, 3), (3, 2)])
def test_a_tucker_triple_becomes_a_pair(path, rng, ranks):
    tensors = tucker(rng, ranks)
    save_tensors(path, tensors)
    found = open_adapter(path)
    up, mid, down = list(tensors.values())[:3]
    # Three convolutions in a row, entry by entry.
    dense = np.einsum("op,pqhw,qi->oihw", up[..., 0, 0], mid, down[..., 0, 0])
    update = found.adapter["unet", "conv_in"]
    assert update.rank == ranks[0]
    np.testing.assert_allclose(update.dense(), 6 / ranks[1] * dense, rtol=1e-12)
    assert found.notes == ("a Tucker core (lora_mid) was folded into lora_down at 1 of 1 modules",)


@pytest.mark.parametrize(
    ("side", "shape"),
    [
        ("lora_up", (5, 4, 1, 1)),
        ("lora_up", (5, 2, 3, 3)),
        ("lora_mid", (2, 2, 3, 3)),
        ("lora_mid", (2, 3)),
        ("lora_down", (3, 4, 3, 3)),
    ],
)
def test_a_tucker_triple_that_does_not_fit_is_refused(path, rng, side, shape):
    save_tensors(path, {**tucker(rng), f"lora_unet_conv_in.{side}.weight": np.ones(shape)})
    with pytest.raises(ShapeError, match="between two 1x1 kernels"):
        open_adapter(path)


def test_both_prefixes_of_the_first_text_encoder_are_a_shadow(path, rng):
    names = [f"lora_te_{under(FC1)}", "lora_te1_text_model_encoder_layers_1_mlp_fc1"]
    save_tensors(path, pair(rng, names[0]) | pair(rng, names[1]))
    with pytest.raises(ConfigError, match="KEY_SHADOW"):
        open_adapter(path)


def test_unknown_names_are_listed_with_the_nearest(path, rng):
    names = [f"lora_unet_mid_blocks_resnets_{i}_conv1" for i in range(10)]
    save_tensors(path, {k: v for name in names for k, v in pair(rng, name).items()})
    with pytest.raises(ConfigError) as caught:
        open_adapter(path)
    *listed, rest = caught.value.problems
    assert [problem.got for problem in listed] == sorted(names)[:8]
    assert listed[0].nearest == "lora_unet_mid_block_resnets_0_conv1"
    assert rest.got == "2 more unknown ones"


@pytest.mark.parametrize("name", ["lora_vae_encoder_conv_in", "lora_te3_x", "lora_transformer_x"])
def test_unknown_prefixes_are_refused(path, rng, name):
    save_tensors(path, pair(rng, name))
    with pytest.raises(ConfigError, match="lora_unet_, lora_te_"):
        open_adapter(path)


def test_names_of_two_forms_in_one_file_are_refused(path, rng):
    save_tensors(path, pair(rng, f"lora_unet_{under(Q)}") | pair(rng, "unet.conv_in"))
    with pytest.raises(ConfigError, match=r"unet\.conv_in"):
        open_adapter(path)


def test_a_lone_model_of_lycoris_has_to_be_named(path, rng):
    save_tensors(path, pair(rng, f"lycoris_{under(Q)}"))
    with pytest.raises(ConfigError, match="what this lone model is"):
        open_adapter(path)
    assert list(open_adapter(path, component="unet").adapter) == [("unet", Q)]


def base(folder, **weights):
    (folder / "unet").mkdir(parents=True)
    tensors = {f"{name}.weight": np.zeros(shape) for name, shape in weights.items()}
    save_tensors(folder / "unet" / "diffusion_pytorch_model.safetensors", tensors)
    return folder


def test_names_resolve_by_the_base(path, rng, tmp_path):
    model = base(tmp_path / "model", **{"my.own_block.to_q": (3, 5), Q: (3, 5, 1, 1)})
    own, known = "lora_unet_my_own_block_to_q", f"lora_unet_{under(Q)}"
    save_tensors(path, pair(rng, own) | pair(rng, known))
    found = open_adapter(path, base=model).adapter
    assert {t.module: u.weight_shape for t, u in found.items()} == {
        "my.own_block.to_q": (3, 5),
        Q: (3, 5, 1, 1),
    }
    with pytest.raises(ConfigError, match="name the base of another model"):
        open_adapter(path)


def test_a_base_of_other_modules_or_shapes_is_refused(path, rng, tmp_path):
    name = f"lora_unet_{under(Q)}"
    save_tensors(path, pair(rng, name))
    with pytest.raises(ShapeError, match="is this its base") as caught:
        open_adapter(path, base=base(tmp_path / "wide", **{Q: (3, 6)}))
    assert caught.value.where == f"unet/{Q}"
    with pytest.raises(ConfigError, match="a module of the base"):
        open_adapter(path, base=base(tmp_path / "other", conv_in=(3, 5)))
    save_tensors(path, pair(rng, f"lora_te_{under(FC1)}"))
    with pytest.raises(ConfigError, match="one of unet, as in the base"):
        open_adapter(path, base=tmp_path / "other")
    save_tensors(path, pair(rng, "lora_unet_conv_in", kernel=(6, 3, 3)))
    with pytest.raises(ShapeError, match="grouped"):
        open_adapter(path, base=base(tmp_path / "grouped", conv_in=(3, 2, 3, 3)))


@pytest.mark.parametrize("where", ["one.safetensors", "my-unet/weights.safetensors"])
def test_a_lone_base_is_what_the_adapter_is_for(path, rng, tmp_path, where):
    single = {"input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": np.zeros((3, 5))}
    (tmp_path / where).parent.mkdir(exist_ok=True)
    save_tensors(tmp_path / where, single)
    model = tmp_path / where.partition("/")[0]
    save_tensors(path, pair(rng, f"lora_unet_{under(Q)}"))
    assert list(open_adapter(path, base=model).adapter) == [("unet", Q)]
    save_tensors(path, pair(rng, f"lora_unet_{under(Q)}") | pair(rng, f"lora_te_{under(FC1)}"))
    with pytest.raises(ConfigError, match="as in the base"):
        open_adapter(path, base=model)
    # The component that is meant is the one that has to fit.
    assert list(open_adapter(path, base=model, component="unet").adapter) == [("unet", Q)]


def adapter(rng, ranks, scale=0.5, width=5):
    updates = {}
    for (component, module), rank in ranks.items():
        a, b = rng.standard_normal((rank, width)), rng.standard_normal((3, rank))
        updates[Target(component, module)] = Update.from_factors(a, b, scale)
    return Adapter(updates, {"note": "kept"})


def test_alpha_is_the_rank_at_every_module(path, rng):
    save_adapter(adapter(rng, {("unet", Q): 2, ("unet", "conv_in"): 4}), path, form="kohya")
    tensors = TensorFile(path)
    for name in (f"lora_unet_{under(Q)}", "lora_unet_conv_in"):
        # Padded to one rank, as diffusers keeps one alpha for attention.
        assert float(tensors[f"{name}.alpha"]) == len(tensors[f"{name}.lora_down.weight"]) == 4
    assert "lora_adapter_metadata" not in tensors.metadata


def test_padding_is_dropped_again_and_may_be_left_out(path, rng):
    written = adapter(rng, {("unet", Q): 2, ("unet", "conv_in"): 4, ("text_encoder", FC1): 1})
    for pad in (True, False):
        Kohya(pad=pad).write(written, path)
        assert dict(Kohya().read(path).ranks) == dict(written.ranks)
    assert float(TensorFile(path)[f"lora_unet_{under(Q)}.alpha"]) == 2


@pytest.mark.parametrize(
    ("ranks", "names"),
    [
        ({("unet", Q): 1, ("text_encoder", FC1): 1}, (under(Q), f"lora_te_{under(FC1)}")),
        (
            {("unet", XL_Q): 1, ("text_encoder", FC1): 1, ("text_encoder_2", FC1): 1},
            (
                "input_blocks_4_1_transformer_blocks_1_attn2_to_out_0",
                f"lora_te1_{under(FC1)}",
                f"lora_te2_{under(FC1)}",
            ),
        ),
    ],
)
def test_each_family_gets_the_names_of_its_trainer(path, rng, ranks, names):
    save_adapter(adapter(rng, ranks), path, form="kohya")
    written = {key.partition(".")[0] for key in TensorFile(path)}
    assert written == {f"lora_unet_{names[0]}", *names[1:]}
    assert open_adapter(path).adapter.keys() == adapter(rng, ranks).keys()


def test_blocks_may_be_chosen(path, rng):
    written = adapter(rng, {("unet", XL_Q): 1, ("unet", DEEP_Q): 1})
    Kohya(blocks="diffusers").write(written, path)
    assert f"lora_unet_{under(XL_Q)}.alpha" in TensorFile(path)
    with pytest.raises(UnsupportedError, match="unknown family"):
        Kohya(blocks="sgm").write(adapter(rng, {("unet", "conv_in"): 1}), path)


@pytest.mark.parametrize(
    ("component", "hint"), [("vae", "merged"), ("transformer", "diffusers"), ("model", "name")]
)
def test_what_user_interfaces_cannot_load_is_refused(path, rng, component, hint):
    with pytest.raises(UnsupportedError) as caught:
        save_adapter(adapter(rng, {(component, "conv_in"): 1}), path, form="kohya")
    assert hint in caught.value.hint
    assert not path.exists()


def test_the_path_names_a_file(tmp_path, rng):
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        save_adapter(adapter(rng, {("unet", Q): 1}), tmp_path / "folder", form="kohya")


@pytest.mark.parametrize(
    ("module", "width", "family"),
    [
        (Q.replace("attn1.to_q", "attn2.to_k"), 768, "sd1"),
        (Q.replace("attn1.to_q", "attn2.to_k"), 1024, "sd2"),
        (XL_Q, 5, None),
        (DEEP_Q, 5, "sdxl"),
        (Q, 5, None),
        ("conv_in", 5, None),
    ],
)
def test_metadata_names_the_family_only_when_it_is_known(path, rng, module, width, family):
    save_adapter(adapter(rng, {("unet", module): 2}, width=width), path, form="kohya")
    metadata = TensorFile(path).metadata
    versions = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
    assert metadata.get("ss_base_model_version") == versions.get(family)
    assert ("modelspec.architecture" in metadata) == (family in ("sd1", "sdxl"))
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"]) == ("2", "2")
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["note"] == "kept"


def test_mixed_ranks_and_kernels_in_the_metadata(path, rng):
    written = dict(adapter(rng, {("unet", Q): 2, ("unet", "time_embedding.linear_1"): 3}))
    a, b = rng.standard_normal((4, 5, 3, 3)), rng.standard_normal((3, 4, 1, 1))
    written[Target("unet", "conv_in")] = Update.from_factors(a, b)
    save_adapter(Adapter(written), path, form="kohya")
    metadata = TensorFile(path).metadata
    assert metadata["ss_network_dim"] == "4"
    assert json.loads(metadata["ss_network_args"]) == {"conv_dim": "4", "conv_alpha": "4"}
    Kohya(pad=False).write(Adapter(written), path)
    assert TensorFile(path).metadata["ss_network_dim"] == "Dynamic"


def test_hashes_are_those_of_the_tensors(path, rng):
    updates = {}
    for module in list(sgm.modules("unet", "sd1"))[:20]:
        a, b = rng.standard_normal((4, 4000)), rng.standard_normal((4000, 4))
        updates[Target("unet", module)] = Update.from_factors(a, b)
    stale = {"sshs_model_hash": "0" * 64, "ss_seed": "1"}
    save_adapter(Adapter(updates, stale), path, form="kohya")
    content, metadata = path.read_bytes(), TensorFile(path).metadata
    data = content[8 + int.from_bytes(content[:8], "little") :]
    assert metadata["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert metadata["ss_seed"] == "1"
    assert len(metadata["sshs_legacy_hash"]) == 8
    assert len(data) > 0x110000
    again = open_adapter(path).adapter
    assert dict(again.metadata).keys() == {"modelspec.title", "ss_seed"} & again.metadata.keys()
