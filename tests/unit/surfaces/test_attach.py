"""Updates on live modules: what is attached can be taken off, merged, copied and read out."""

import copy

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.basics.errors import ConfigError, ShapeError
from loricate.integrity.digest import digest
from loricate.lowrank.factors import LowRank
from loricate.surfaces.attach import (
    attach,
    attach_dense,
    copied,
    load,
    matrix_shapes,
    merged_copy,
    pristine_copy,
    target_layers,
)

_ROUNDING = 1e-5


class Net(nn.Module):
    """Plain, strided, grouped and 1 x 1 convolutions, a Linear, and one layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(6, 8, 3, padding=1, groups=2),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 4, 1, bias=False),
        )
        self.head = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x):
        return self.head(self.encoder(x).flatten(1))


_PATHS = ["encoder.0", "encoder.2", "encoder.4", "head"]


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval().requires_grad_(False)


@pytest.fixture
def x():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _filled(net, rank: int = 2):
    """Attached updates that do something."""
    attached = attach(net, dict.fromkeys(_PATHS, rank), seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for update in attached.updates.values():
            update.b.copy_(0.3 * torch.randn(update.b.shape, generator=generator))
    return attached


def _close(a, b) -> bool:
    return torch.allclose(a, b, atol=_ROUNDING * float(b.detach().abs().max()), rtol=0)


def test_every_linear_and_convolution_is_a_target(net) -> None:
    assert list(target_layers(net)) == _PATHS
    assert list(target_layers(net, ("encoder.",))) == _PATHS[:3]
    assert matrix_shapes(target_layers(net)) == {
        "encoder.0": (6, 27),
        "encoder.2": (8, 27),
        "encoder.4": (4, 8),
        "head": (5, 64),
    }


@pytest.mark.parametrize("prefixes", [("decoder.",), ("encoder.1",)])
def test_nothing_to_update_is_an_error(net, prefixes) -> None:
    with pytest.raises(ConfigError) as caught:
        target_layers(net, prefixes)
    assert prefixes[0] in caught.value.problems[0].expected


def test_a_fresh_update_changes_no_output(net, x) -> None:
    before = net(x)
    attach(net, dict.fromkeys(_PATHS, 3), seed=0)
    assert torch.equal(net(x), before)


def test_rank_zero_leaves_a_layer_alone(net) -> None:
    attached = attach(net, {"encoder.0": 0, "head": 1}, seed=0)
    assert list(attached.updates) == ["head"]
    assert type(net.encoder[0]) is nn.Conv2d


def test_factors_depend_on_seed_and_layer_alone(net) -> None:
    first = attach(copy.deepcopy(net), {"head": 2, "encoder.0": 2}, seed=0).updates
    again = attach(copy.deepcopy(net), {"encoder.0": 2, "head": 2}, seed=0).updates
    other = attach(copy.deepcopy(net), {"head": 2}, seed=1).updates
    assert torch.equal(first["head"].a, again["head"].a)
    assert not torch.equal(first["head"].a, other["head"].a)
    assert not torch.equal(first["encoder.0"].a[:, :4], first["head"].a[:, :4])


def test_the_weight_is_the_base_plus_b_times_a(net) -> None:
    base = net.encoder[2].weight.clone()
    update = _filled(net).updates["encoder.2"]
    expected = base + (update.b @ update.a).view_as(base)
    assert torch.equal(net.encoder[2].weight, expected)


def test_gain_is_linear_and_zero_is_exact(net, x) -> None:
    before, base = net(x), net.head.weight.clone()
    attached = _filled(net)
    full = net.head.weight - base
    attached.set_gain(0.5)
    assert torch.allclose(net.head.weight - base, full / 2, atol=1e-7)
    attached.set_gain(0.0)
    assert torch.equal(net(x), before)


def test_off_is_the_base_inside_the_block_and_gains_come_back(net, x) -> None:
    before = net(x)
    attached = _filled(net)
    attached.set_gain(0.7)
    hardened = net(x)

    def fail() -> None:
        with attached.off():
            assert torch.equal(net(x), before)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert torch.equal(net(x), hardened)


def test_detach_gives_back_the_very_same_tensors(net, x) -> None:
    before = net(x)
    names, parameters = list(net.state_dict()), dict(net.named_parameters())
    content = digest(net.state_dict())
    _filled(net).detach()
    assert list(net.state_dict()) == names
    assert dict(net.named_parameters()).keys() == parameters.keys()
    for name, parameter in net.named_parameters():
        assert parameter is parameters[name]
    assert digest(net.state_dict()) == content
    assert torch.equal(net(x), before)
    assert type(net.head) is nn.Linear


def test_merged_equals_attached_and_leaves_the_original_alone(net, x) -> None:
    content = digest(net.state_dict())
    names = list(net.state_dict())
    attached = _filled(net)
    hardened = net(x)
    merged = merged_copy(attached)
    assert list(merged.state_dict()) == names
    assert _close(merged(x), hardened)
    assert torch.equal(net(x), hardened)
    attached.detach()
    assert digest(net.state_dict()) == content
    # Not the other way around either: the copy lives on when the original is taken apart.
    assert _close(merged(x), hardened)


def test_a_pristine_copy_is_the_base(net, x) -> None:
    before, content = net(x), digest(net.state_dict())
    attached = _filled(net)
    hardened = net(x)
    twin = pristine_copy(attached)
    assert digest(twin.state_dict()) == content
    assert torch.equal(twin(x), before)
    assert torch.equal(net(x), hardened)


def test_copies_survive_each_other(net, x) -> None:
    attached = _filled(net)
    hardened = net(x)
    twin = copied(attached)
    attached.detach()
    assert torch.equal(twin.module(x), hardened)
    twin.set_gain(0.0)
    assert torch.equal(twin.module(x), net(x))


def test_merging_in_place_keeps_names_and_flags(net, x) -> None:
    net.head.weight.requires_grad_(True)
    names = list(net.state_dict())
    attached = _filled(net)
    hardened = net(x).detach()
    merged = attached.merge()
    assert merged is net
    assert list(net.state_dict()) == names
    assert _close(net(x), hardened)
    assert net.head.weight.requires_grad
    assert not net.encoder[0].weight.requires_grad


def test_layers_that_share_a_weight_are_merged_each_by_itself(x) -> None:
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192)).eval()
    net[2].weight = net[1].weight
    attached = attach(net, {"1": 1, "2": 1}, seed=0)
    with torch.no_grad():
        attached.updates["1"].b.fill_(0.1)
        attached.updates["2"].b.fill_(-0.2)
        hardened = net(x)
        assert _close(merged_copy(attached)(x), hardened)


def test_the_adapter_holds_the_updates_with_the_gain_folded_in(net) -> None:
    attached = _filled(net)
    attached.set_gain(0.5)
    adapter = attached.adapter("vae")
    assert list(adapter) == [Target("vae", path) for path in _PATHS]
    for path, update in attached.updates.items():
        dense = adapter[Target("vae", path)].dense()
        expected = 0.5 * update.matrix().view_as(net.get_submodule(path).weight)
        assert torch.allclose(dense, expected, atol=1e-6)


def test_components_that_are_zero_are_left_out_of_adapter_and_count(net) -> None:
    attached = _filled(net, rank=3)
    with torch.no_grad():
        attached.updates["head"].a[1] = 0
        attached.updates["head"].b[:, 1] = 0
        attached.updates["encoder.4"].b.zero_()
    adapter = attached.adapter()
    assert adapter[Target("model", "head")].rank == 2
    assert Target("model", "encoder.4") not in adapter
    assert attached.updates["head"].n_alive == 2
    assert attached.updates["head"].n_parameters == 2 * (5 + 64)
    assert attached.updates["encoder.4"].n_parameters == 0


def test_an_adapter_loads_as_it_was(net, x) -> None:
    attached = _filled(net)
    hardened, adapter = net(x), attached.adapter("vae")
    attached.detach()
    loaded = load(net, adapter, "vae")
    assert torch.allclose(net(x), hardened, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    loaded.detach()


def _linear_adapter(path: str, d_out: int, d_in: int) -> Adapter:
    factors = LowRank(torch.ones(1, d_in), torch.ones(d_out, 1))
    return Adapter({Target("vae", path): Update(factors)})


@pytest.mark.parametrize(
    ("adapter", "error"),
    [
        (_linear_adapter("heat", 5, 64), ConfigError),
        (_linear_adapter("head", 5, 63), ShapeError),
        (_linear_adapter("encoder.1", 5, 64), ConfigError),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_whole(net, adapter, error) -> None:
    names = list(net.state_dict())
    with pytest.raises(error):
        load(net, Adapter({**_linear_adapter("head", 5, 64), **adapter}), "vae")
    assert list(net.state_dict()) == names


def test_an_adapter_for_another_component_is_refused(net) -> None:
    with pytest.raises(ConfigError) as caught:
        load(net, _linear_adapter("head", 5, 64), "unet")
    assert caught.value.problems[0].got == ("vae",)


def test_a_layer_whose_weight_is_computed_is_refused_and_nothing_stays_attached(net) -> None:
    nn.utils.parametrizations.weight_norm(net.head)
    with pytest.raises(ConfigError) as caught:
        attach(net, dict.fromkeys(_PATHS, 1), seed=0)
    assert caught.value.problems[0].got == "head"
    assert type(net.encoder[0]) is nn.Conv2d


def test_twice_is_once_too_often(net) -> None:
    _filled(net)
    with pytest.raises(ConfigError):
        _filled(net)


def test_dense_updates_reach_any_weight(net) -> None:
    attached = attach_dense(net, _PATHS)
    assert attached.n_parameters > sum(p.numel() for p in net.encoder[0].parameters())
    trained = [p for p in attached.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == sum(
        d_out * d_in
        for d_out, d_in in matrix_shapes(target_layers(pristine_copy(attached))).values()
    )
    base, wanted = net.head.weight.clone(), torch.full((5, 64), 0.5)
    with torch.no_grad():
        attached.updates["head"].b.copy_(wanted - base)
    assert torch.allclose(net.head.weight, wanted)


def test_half_precision_weights_get_single_precision_factors(net) -> None:
    net.half()
    attached = attach(net, {"head": 2}, seed=0)
    assert attached.updates["head"].a.dtype == torch.float32
    assert net.head.weight.dtype == torch.float16


def test_gradients_reach_the_factors_and_not_the_base(net, x) -> None:
    attached = _filled(net)
    net(x).square().sum().backward()
    for update in attached.updates.values():
        assert update.a.grad.abs().sum() > 0
        assert update.b.grad.abs().sum() > 0
    assert all(p.grad is None for p in attached.detach().parameters())
