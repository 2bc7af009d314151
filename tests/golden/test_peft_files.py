"""Folders we write, in PEFT's own hands: same update, scale and rank, and the way back."""

import copy

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.formats.peft import PEFT
from loricate.basics.arrays import to_numpy, tolerance
from loricate.basics.errors import UnsupportedError

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.golden_live


@pytest.fixture(autouse=True)
def _torch_generator_is_lent():
    # PEFT initializes its layers from the global generator.
    with torch.random.fork_rng(devices=[]):
        yield


class Net(torch.nn.Module):
    """Modules whose names end alike, of every kind that an adapter reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.block = torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(4, 6, 1)})
        self.wide = torch.nn.Conv2d(6, 5, (1, 3), stride=2)
        self.head = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 2))

    def forward(self, x):
        y = self.wide(self.block["conv1"](self.conv1(x))).mean((2, 3))
        return self.head(y)


RANKS = {"conv1": 2, "block.conv1": 3, "wide": 2, "head.0": 4, "head.1": 1}


@pytest.fixture
def net(seed):
    torch.manual_seed(seed)
    return Net().double()


@pytest.fixture
def adapter(net, rng):
    updates = {}
    for module, rank in RANKS.items():
        weight = net.get_submodule(module).weight
        kernel = tuple(weight.shape[1:])
        ones = (1,) * (weight.ndim - 2)
        a = rng.standard_normal((rank, *kernel))
        b = rng.standard_normal((weight.shape[0], rank, *ones))
        updates[Target("model", module)] = Update.from_factors(a, b, scale=0.25)
    return Adapter(updates)


def merged(net, adapter):
    copied = copy.deepcopy(net)
    for target, update in adapter.items():
        copied.get_submodule(target.module).weight.data += torch.asarray(update.dense())
    return copied


def test_peft_loads_our_folder(net, adapter, rng, tmp_path):
    PEFT().write(adapter, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "adapter")
    for target, update in adapter.items():
        layer = loaded.base_model.model.get_submodule(target.module)
        assert layer.r == {"default": update.rank}
        assert layer.scaling == {"default": 1.0}
        atol = tolerance(np.asarray([update.factors.spectral_norm()]), update.factors.shape)
        delta = layer.get_delta_weight("default")
        np.testing.assert_allclose(to_numpy(delta), update.dense(), rtol=0, atol=atol)
    names = [name for name, _ in loaded.named_parameters() if "lora_A" in name]
    assert len(names) == len(RANKS)
    x = torch.asarray(rng.standard_normal((2, 3, 6, 6)))
    torch.testing.assert_close(loaded(x), merged(net, adapter)(x))


def test_peft_merges_to_our_weights(net, adapter, tmp_path):
    PEFT().write(adapter, tmp_path / "adapter")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(net), tmp_path / "adapter")
    theirs = loaded.merge_and_unload().state_dict()
    for name, weight in merged(net, adapter).state_dict().items():
        torch.testing.assert_close(theirs[name], weight)


@pytest.mark.parametrize("rooted", [False, True])
def test_we_read_what_peft_writes(net, rng, rooted, tmp_path):
    config = peft.LoraConfig(
        r=2,
        lora_alpha=6,
        use_rslora=rooted,
        target_modules=list(RANKS),
        rank_pattern={r"^head\.0": 3, "block.conv1": 1},
        alpha_pattern={r"^head\.0": 5},
    )
    model = peft.get_peft_model(copy.deepcopy(net), config)
    layers = {m: model.base_model.model.get_submodule(m) for m in RANKS}
    for layer in layers.values():
        weight = layer.lora_B["default"].weight
        weight.data = torch.asarray(rng.standard_normal(weight.shape)).to(weight.dtype)
    model.save_pretrained(tmp_path / "theirs")
    adapter = PEFT(component="model").read(tmp_path / "theirs")
    assert {target.module for target in adapter} == set(RANKS)
    for target, update in adapter.items():
        layer = layers[target.module]
        assert update.factors.scale == pytest.approx(layer.scaling["default"], rel=1e-15)
        atol = tolerance(np.asarray([update.factors.spectral_norm()]), update.factors.shape)
        delta = to_numpy(layer.get_delta_weight("default"))
        np.testing.assert_allclose(to_numpy(update.dense()), delta, rtol=0, atol=atol)


@pytest.mark.parametrize("option", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_we_refuse_what_is_not_plain_lora(net, option, tmp_path):
    config = peft.LoraConfig(r=1, target_modules=["head.0"], **option)
    model = peft.get_peft_model(copy.deepcopy(net).float(), config)
    model.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UnsupportedError):
        PEFT(component="model").read(tmp_path / "theirs")
