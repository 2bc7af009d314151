"""An adapter of a VAE in the hands of diffusers: attached, by PEFT, and merged agree."""

import copy

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.merged import Merged
from loricate.adapters.formats.peft import PEFT

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.golden_live


@pytest.fixture(autouse=True)
def _torch_generator_is_lent():
    # PEFT initializes its layers from the global generator.
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.AutoencoderKL(
            block_out_channels=(4, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
            sample_size=16,
        ).eval()


@pytest.fixture(scope="module")
def adapter(vae):
    """Every Linear and Conv2d of the encoder, ranks 1 to 3, torch factors."""
    rng = np.random.default_rng(1)
    updates = {}
    for name, module in vae.named_modules():
        if not name.startswith(("encoder", "quant_conv")) or not hasattr(module, "weight"):
            continue
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            shape, rank = tuple(module.weight.shape), 1 + len(updates) % 3
            a = 0.1 * rng.standard_normal((rank, *shape[1:]))
            b = rng.standard_normal((shape[0], rank) + (1,) * (len(shape) - 2))
            factors = (torch.asarray(factor, dtype=torch.float32) for factor in (a, b))
            updates[Target("vae", name)] = Update.from_factors(*factors, scale=0.5)
    return Adapter(updates)


@pytest.fixture(scope="module")
def image():
    return torch.asarray(np.random.default_rng(2).uniform(-1, 1, (2, 3, 16, 16))).float()


def latent(vae, image):
    with torch.no_grad():
        return vae.encode(image).latent_dist.mean


@pytest.fixture(scope="module")
def expected(vae, adapter, image):
    copied = copy.deepcopy(vae)
    for target, update in adapter.items():
        copied.get_submodule(target.module).weight.data += update.dense()
    return latent(copied, image)


@pytest.fixture(scope="module")
def folder(adapter, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "adapter"
    PEFT().write(adapter, path)
    return path


def test_the_update_matters(vae, image, expected):
    assert (latent(vae, image) - expected).abs().max() > 0.1 * expected.abs().max()


def test_diffusers_attaches_our_folder(vae, adapter, image, expected, folder):
    attached = copy.deepcopy(vae)
    attached.load_lora_adapter(
        folder, weight_name="adapter_model.safetensors", prefix="base_model.model"
    )
    assert sum("lora_A" in name for name in attached.state_dict()) == len(adapter)
    torch.testing.assert_close(latent(attached, image), expected, rtol=1e-5, atol=1e-5)


def test_peft_attaches_our_folder(vae, image, expected, folder):
    attached = peft.PeftModel.from_pretrained(copy.deepcopy(vae), folder).base_model.model
    torch.testing.assert_close(latent(attached, image), expected, rtol=1e-5, atol=1e-5)


def test_diffusers_loads_our_merged_folder(vae, adapter, image, expected, tmp_path):
    vae.save_pretrained(tmp_path / "base" / "vae")
    Merged(base=tmp_path / "base").write(adapter, tmp_path / "merged")
    loaded = diffusers.AutoencoderKL.from_pretrained(tmp_path / "merged", use_safetensors=True)
    torch.testing.assert_close(latent(loaded.eval(), image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_bases_are_rounded_once(vae, adapter, dtype, tmp_path):
    half = copy.deepcopy(vae).to(dtype)
    half.save_pretrained(tmp_path / "base")
    Merged(base=tmp_path / "base").write(adapter, tmp_path / "merged")
    merged = diffusers.AutoencoderKL.from_pretrained(tmp_path / "merged", torch_dtype=dtype)
    ours = merged.state_dict()
    for name, weight in half.state_dict().items():
        update = adapter.get(Target("vae", name.removesuffix(".weight")))
        if update is None:
            assert torch.equal(ours[name], weight)
            continue
        # One unit in the last place: float32 sums in another order may land on the other side.
        wanted = weight.float() + update.dense()
        spacing = torch.finfo(dtype).eps * wanted.abs() + torch.finfo(torch.float32).eps
        assert torch.all((ours[name].float() - wanted).abs() <= spacing)
