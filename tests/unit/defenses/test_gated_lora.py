"""Training of gated adapters: gates that tell attacked from clean, and laws of training."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from loricate.basics.errors import ConfigError, ShapeError
from loricate.core.training import silent
from loricate.defenses import _training
from loricate.defenses._gated import GatedTarget
from loricate.defenses._training import Schedule
from loricate.defenses.gated_lora import GatedLora
from loricate.integrity.digest import digest
from loricate.surfaces.gated import watched
from loricate.testing._spec_laws import survives_toml

_SPEC = GatedLora(rank=3, schedule=Schedule(steps=60, batch_size=8, learning_rate=2e-2))


class _Stopped(BaseException):
    """The process is gone."""


def _module():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 6)).requires_grad_(False)


def _latents():
    clean = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
    return clean, clean + torch.tensor([2.0, 0, 0, -2.0, 0, 0])


def _target(module) -> GatedTarget:
    def error(latents, rows, seeds):
        return (module(latents[:, None])[:, 0] - latents).square().mean(1)

    return GatedTarget(module, ("0", "2"), error)


def _train(module, spec=_SPEC, *, seed=0, observe=silent, checkpoint=None, latents=None):
    clean, attacked = latents or _latents()
    return spec.train_gated(
        _target(module), clean, attacked, seed=seed, observe=observe, checkpoint=checkpoint
    )


def _state(trained):
    return [p.detach() for p in trained.attached.parameters()]


def test_a_spec_survives_toml() -> None:
    survives_toml(_SPEC)


def test_it_learns_and_its_gate_tells_attacked_from_clean() -> None:
    module, (clean, attacked) = _module(), _latents()
    before = digest(module.state_dict())
    trained = _train(module)
    first, last = trained.log.curves[0], trained.log.curves[-1]
    assert last["clean"] < first["clean"]
    assert last["attacked"] < first["attacked"]
    with watched(module) as gates:
        module(torch.cat([clean, attacked])[:, None])
    shut, opened = gates.mean().chunk(2)
    assert (opened > shut).all()
    assert digest(trained.attached.detach().state_dict()) == before
    assert trained.log.parameters == trained.attached.n_parameters


def test_the_gate_is_supervised_by_its_weight() -> None:
    ends = []
    for weight in (0.0, 1.0):
        row = _train(_module(), replace(_SPEC, gate_weight=weight)).log.curves[-1]
        ends.append(row["gate_attacked"] - row["gate_clean"])
    assert ends[1] > ends[0] + 0.1


def test_training_is_what_the_seed_says_and_leaves_a_frozen_module() -> None:
    one, two, other = _train(_module()), _train(_module()), _train(_module(), seed=1)
    assert all(map(torch.equal, _state(one), _state(two)))
    assert not all(map(torch.equal, _state(one), _state(other)))
    assert not any(p.requires_grad for p in one.attached.parameters())


def test_resuming_equals_never_having_stopped(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_training, "_CHECKPOINT_EVERY_S", 0.0)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def stop(phase, done, total, measured) -> None:
        if done == 20:
            raise _Stopped

    module = _module()
    with pytest.raises(_Stopped):
        _train(module, observe=stop, checkpoint=checkpoint)
    assert not module[0]._forward_hooks, "a stopped training left its gates on the module"
    resumed = _train(_module(), checkpoint=checkpoint)
    assert all(map(torch.equal, _state(resumed), _state(_train(_module()))))
    with pytest.raises(ConfigError):
        _train(_module(), seed=1, checkpoint=checkpoint)


def test_latents_come_in_pairs() -> None:
    clean, attacked = _latents()
    with pytest.raises(ShapeError):
        _train(_module(), latents=(clean, attacked[:5]))
