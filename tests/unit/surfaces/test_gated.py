"""Gated updates: formula, off switch, files, refusals."""

import copy

import pytest
import torch
from torch import nn

from loricate.adapters.files import open_adapter
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.errors import (
    ConfigError,
    HostileFileError,
    LoricateError,
    NumericalError,
    ShapeError,
    UnsupportedError,
)
from loricate.integrity.digest import digest
from loricate.surfaces.attach import attach
from loricate.surfaces.gated import attach_gated, load_gated, watched

_RANKS = {"0": 2, "2": 3}


def _module(width: int = 5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(width, 6), nn.SiLU(), nn.Linear(6, 4))
    return module.requires_grad_(False)


def _x(rows: int = 3):
    return torch.randn(rows, 7, 5, generator=torch.Generator().manual_seed(1))


def _trained(module, seed: int = 0):
    attached = attach_gated(module, _RANKS, seed=seed)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in attached.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return attached


def test_fresh_updates_change_nothing_and_can_learn() -> None:
    module, x = _module(), _x()
    expected = module(x)
    attached = attach_gated(module, _RANKS, seed=0)
    assert torch.equal(module(x), expected)
    module(x).square().sum().backward()
    assert attached.updates["0"].b.grad.abs().sum() > 0
    assert attached.updates["0"].second.grad.abs().sum() > 0


def test_the_formula() -> None:
    module, x = _module(), _x()
    plain = module[0](x)
    update = _trained(module).updates["0"]
    first = x @ (update.b @ update.a).T
    gate = torch.sigmoid(update.mlp(first))
    expected = plain + first + gate * (x @ (update.second @ update.a).T)
    assert gate.shape == (3, 7, 1)
    assert torch.allclose(module[0](x), expected, atol=1e-5)
    assert torch.allclose(update.gate(x), gate, atol=1e-6)
    assert ((gate >= 0) & (gate <= 1)).all()


def test_gates_are_seen_with_gradient_one_a_sample() -> None:
    module, x = _module(), _x().requires_grad_(True)
    attached = _trained(module)
    with watched(module) as gates:
        module(x)
    mean = gates.mean()
    assert mean.shape == (3,)
    hidden = nn.functional.silu(module[0](x))
    by_hand = [attached.updates["0"].gate(x), attached.updates["2"].gate(hidden)]
    assert torch.allclose(mean, sum(g.flatten(1).mean(1) for g in by_hand) / 2)
    (gradient,) = torch.autograd.grad(mean.sum(), x)
    assert gradient.abs().sum() > 0
    module(x)
    assert len(gates.seen) == 2, "seen outside of the block"


def test_without_gates_there_is_nothing_to_see() -> None:
    module = _module()
    with watched(module) as gates:
        module(_x())
    with pytest.raises(UnsupportedError):
        gates.mean()


def test_off_and_detached_are_the_base_bit_for_bit() -> None:
    module, x = _module(), _x()
    before, expected = digest(module.state_dict()), module(x)
    attached = _trained(module)
    changed = module(x)
    assert not torch.equal(changed, expected)
    assert digest(module.state_dict()) == before
    with attached.off():
        assert torch.equal(module(x), expected)
    assert torch.equal(module(x), changed)
    assert attached.detach() is module
    assert torch.equal(module(x), expected)
    assert [*module.state_dict()] == [*_module().state_dict()]


def test_a_copy_has_gates_of_its_own() -> None:
    module, x = _module(), _x()
    attached = _trained(module)
    twin = copy.deepcopy(module)
    assert torch.equal(twin(x), module(x))
    expected = module(x)
    attached.detach()
    assert torch.equal(twin(x), expected)


def test_a_user_trains_a_lora_on_top() -> None:
    module, x = _module(), _x()
    attached = _trained(module)
    attached.freeze()
    expected = module(x)
    lora = attach(module, {"0": 2}, seed=0)
    assert torch.equal(module(x), expected)
    module(x).square().sum().backward()
    assert lora.updates["0"].b.grad.abs().sum() > 0
    assert all(p.grad is None for p in attached.parameters())
    lora.detach()
    assert torch.equal(module(x), expected)


def test_files_keep_everything(tmp_path) -> None:
    module, x, path = _module(), _x(), tmp_path / "gate.safetensors"
    attached = _trained(module)
    attached.set_gain(0.5)
    attached.save(path)
    other = _module()
    loaded = load_gated(other, path)
    assert torch.equal(other(x), module(x))
    assert not any(p.requires_grad for p in loaded.parameters())
    assert loaded.n_parameters == attached.n_parameters


def test_no_plain_file_can_hold_a_gate() -> None:
    with pytest.raises(UnsupportedError) as caught:
        _trained(_module()).adapter("unet")
    assert caught.value.what == "a gated adapter"
    assert "depends on the input" in str(caught.value)


def test_its_own_file_is_not_taken_for_a_plain_adapter(tmp_path) -> None:
    _trained(_module()).save(tmp_path / "gate.safetensors")
    with pytest.raises(LoricateError):
        open_adapter(tmp_path / "gate.safetensors")


def test_what_does_not_fit_is_refused(tmp_path) -> None:
    path = tmp_path / "gate.safetensors"
    _trained(_module()).save(path)
    with pytest.raises(ShapeError) as caught:
        load_gated(_module(width=8), path)
    assert caught.value.where == "0"
    with pytest.raises(ConfigError):
        load_gated(nn.Sequential(nn.SiLU(), nn.Linear(5, 6, device="meta")), path)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(HostileFileError):
        load_gated(_module(), tmp_path / "text.safetensors")


@pytest.mark.parametrize("path", ["1", "9"])
def test_only_linear_layers_are_gated(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        attach_gated(_module(), {path: 2}, seed=0)
    assert caught.value.problems[0].got == path


def test_one_gate_a_layer() -> None:
    module = _module()
    attach_gated(module, _RANKS, seed=0)
    with pytest.raises(ConfigError):
        attach_gated(module, _RANKS, seed=0)


def test_nan_is_not_saved(tmp_path) -> None:
    attached = _trained(_module())
    with torch.no_grad():
        attached.updates["0"].b[0, 0] = float("nan")
    with pytest.raises(NumericalError) as caught:
        attached.save(tmp_path / "gate.safetensors")
    assert caught.value.where == "0|b"
    assert not (tmp_path / "gate.safetensors").exists()


@pytest.mark.parametrize("gains", ["", "[1]", '{"0": 1.0}', '{"0": 1.0, "2": NaN}', '{"0": {}}'])
def test_gains_that_do_not_fit_are_refused(tmp_path, gains: str) -> None:
    path, module = tmp_path / "gate.safetensors", _module()
    _trained(_module()).save(path)
    file = TensorFile(path)
    save_tensors(path, {n: file[n].copy() for n in file}, {**file.metadata, "gains": gains})
    with pytest.raises(ConfigError) as caught:
        load_gated(module, path)
    assert caught.value.problems[0].key == "gains"
    assert not module[0]._forward_hooks


def test_files_with_nan_or_more_than_a_gate_are_refused(tmp_path) -> None:
    path, module = tmp_path / "gate.safetensors", _module()
    _trained(_module()).save(path)
    file = TensorFile(path)
    tensors = {n: file[n].copy() for n in file}
    save_tensors(path, tensors | {"0|more": tensors["0|a"]}, file.metadata)
    with pytest.raises(ShapeError):
        load_gated(module, path)
    tensors["2|b"][0] = float("nan")
    save_tensors(path, tensors, file.metadata)
    with pytest.raises(NumericalError) as caught:
        load_gated(module, path)
    assert caught.value.where == "2|b"
    assert not module[0]._forward_hooks
