"""Harden and attack any module: what it owes to a module it did not build."""

import copy
import math

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

import loricate
from loricate.attacks.fgsm import FGSM
from loricate.basics.errors import ConfigError, NumericalError, ShapeError, UnsupportedError
from loricate.defenses._training import Schedule
from loricate.defenses.adversarial_lora import AdversarialLora
from loricate.integrity.digest import digest
from loricate.testing.surfaces import conv_encoder, pictures

_QUICK = {"epsilon": "16/255", "rank": 4, "steps": 2}


@pytest.fixture
def module() -> nn.Sequential:
    return conv_encoder(dtype=torch.float32)


@pytest.fixture(scope="module")
def images():
    return pictures(24, dtype=torch.float32)


def _drift(module, images, adversarial) -> float:
    with torch.no_grad():
        return float((module(adversarial) - module(images)).square().sum())


def _plain_pgd(module, x, epsilon: float, *, steps: int = 40, restarts: int = 2, seed: int = 5):
    """An attack written without the library: textbook steps of epsilon / 4, best iterate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        clean = module(x)
    best, best_value = x.clone(), torch.zeros(len(x))
    for _ in range(restarts):
        z = (x + epsilon * (2 * torch.rand(x.shape, generator=generator) - 1)).clamp(0, 1)
        for _ in range(steps):
            z.requires_grad_(True)
            value = (module(z) - clean).flatten(1).square().sum(1)
            (gradient,) = torch.autograd.grad(value.sum(), z)
            with torch.no_grad():
                better = value > best_value
                best[better], best_value = z[better], torch.where(better, value, best_value)
                z = x + (z + epsilon / 4 * gradient.sign() - x).clamp(-epsilon, epsilon)
                z = z.clamp(0, 1)
    return best.detach()


def test_a_hardened_module_moves_less_under_an_attack_it_has_not_seen(module, images) -> None:
    base = copy.deepcopy(module)
    schedule = Schedule(steps=100, batch_size=8, learning_rate=5e-2)
    spec = AdversarialLora(inner=FGSM(), epsilon=16 / 255, max_drift=0.3, schedule=schedule)
    hardened = loricate.harden_module(module, images, seed=0, spec=spec)
    assert hardened.module is module
    fresh = pictures(8, seed=1, dtype=torch.float32)
    before, after = (
        _drift(m, fresh, _plain_pgd(m, fresh, 16 / 255)) for m in (base, hardened.module)
    )
    assert after < 0.95 * before


def test_what_comes_back_belongs_together(module, images) -> None:
    names, content, output = [*module.state_dict()], digest(module.state_dict()), module(images)
    hardened = loricate.harden_module(module, images, seed=0, **(_QUICK | {"steps": 3}))
    attached = module(images)
    assert torch.allclose(hardened.merged()(images), attached, atol=1e-5)
    assert {update.rank for update in hardened.adapter.values()} <= {1, 2, 3, 4}
    hardened.set_gain(0.0)
    assert torch.equal(module(images), output)
    hardened.set_gain(1.0)
    assert torch.equal(module(images), attached)
    merged = hardened.merged()
    assert hardened.detach() is module
    assert torch.equal(module(images), output)
    assert [*module.state_dict()] == names == [*merged.state_dict()]
    assert digest(module.state_dict()) == content


def test_flags_come_back(module, images) -> None:
    module = nn.Sequential(module, nn.BatchNorm2d(4))
    module.train()
    module[1].eval()
    module[0][0].weight.requires_grad_(False)
    trainable = {name for name, p in module.named_parameters() if p.requires_grad}
    statistics = module[1].running_mean.clone()
    hardened = loricate.harden_module(module, images, **_QUICK)
    assert (module.training, module[0].training, module[1].training) == (True, True, False)
    assert torch.equal(module[1].running_mean, statistics)
    assert not any(p.requires_grad for p in hardened._attached.parameters())
    hardened.detach()
    assert {name for name, p in module.named_parameters() if p.requires_grad} == trainable
    loricate.attack_module(module, images[:2], steps=2)
    assert (module.training, module[1].training) == (True, False)
    assert {name for name, p in module.named_parameters() if p.requires_grad} == trainable
    assert all(p.grad is None for p in module.parameters())


def test_modules_of_linear_layers_alone(images) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Flatten(), nn.Linear(3 * 12 * 12, 16), nn.Tanh(), nn.Linear(16, 4)
        )
    hardened = loricate.harden_module(module, images, **_QUICK)
    assert [target.module for target in hardened.adapter] == ["1", "3"]


def test_ranks_larger_than_a_layer_are_cut(module, images) -> None:
    hardened = loricate.harden_module(module, images, **(_QUICK | {"steps": 1, "rank": 999}))
    assert {t.module: u.rank for t, u in hardened.adapter.items()} == {"0": 8, "2": 4}


def test_a_seed_says_it_all(module, images) -> None:
    runs = [
        loricate.harden_module(copy.deepcopy(module), images, seed=s, **_QUICK) for s in (0, 0, 1)
    ]
    outputs = [run.module(images) for run in runs]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


class _Tuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.inner(x), x


class _Flat(_Tuple):
    def forward(self, x):
        return self.inner(x).sum()


def _bad(images, what: str):
    if what == "nan":
        images = images.clone()
        images[0, 0, 0, 0] = math.nan
    changed = {"uint8": (images * 255).byte(), "255": images * 255, "-1": 2 * images - 1}
    return changed.get(what, images[:0] if what == "empty" else images)


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("uint8", ShapeError),
        ("empty", ShapeError),
        ("nan", NumericalError),
        ("255", NumericalError),
        ("-1", NumericalError),
    ],
)
def test_images_that_are_none_are_refused(module, images, what: str, error) -> None:
    with pytest.raises(error):
        loricate.harden_module(module, _bad(images, what), **_QUICK)
    with pytest.raises(error):
        loricate.attack_module(module, _bad(images, what))
    assert type(module[0]) is nn.Conv2d


@pytest.mark.parametrize("kind", [_Tuple, _Flat])
def test_modules_that_return_no_rows_are_refused_as_they_were(kind, images) -> None:
    with torch.random.fork_rng(devices=[]):
        module = kind().train()
    for call in (loricate.harden_module, loricate.attack_module):
        with pytest.raises(ShapeError):
            call(module, images)
        assert type(module.inner) is nn.Conv2d
        assert module.training
        assert all(p.requires_grad for p in module.parameters())


@pytest.mark.parametrize(
    "changes", [{"rank": 0}, {"steps": 0}, {"epsilon": 8}, {"epsilon": "x"}, {"max_drift": -1}]
)
def test_values_out_of_range_are_refused(module, images, changes) -> None:
    with pytest.raises(ConfigError):
        loricate.harden_module(module, images, **(_QUICK | changes))
    assert type(module[0]) is nn.Conv2d


@pytest.mark.parametrize(
    "changes", [{"steps": 0}, {"n_restarts": 0}, {"epsilon": -0.1}, {"norm": "linff"}]
)
def test_attacks_out_of_range_are_refused(module, images, changes) -> None:
    with pytest.raises(ConfigError):
        loricate.attack_module(module, images, **changes)


def test_nothing_to_update_is_an_error(images) -> None:
    with pytest.raises(ConfigError):
        loricate.harden_module(nn.Sequential(nn.AvgPool2d(2), nn.ReLU()), images)


def test_hardening_twice_names_the_way_out(module, images) -> None:
    loricate.harden_module(module, images, **(_QUICK | {"steps": 1}))
    with pytest.raises(ConfigError):
        loricate.harden_module(module, images, **(_QUICK | {"steps": 1}))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_stay_in_the_ball_and_on_the_grid(module, images, norm: str) -> None:
    epsilon = 8 / 255 if norm == "linf" else 0.5
    adversarial = loricate.attack_module(module, images, epsilon=epsilon, norm=norm, steps=5)
    delta = (adversarial - images).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert float(size.max()) <= epsilon + 1e-5
    assert float(size.min()) > 0.5 * epsilon
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert torch.equal(adversarial, (adversarial * 255).round() / 255)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_attack_is_as_strong_as_a_plain_one(module, images, seed: int) -> None:
    x = images[:8]
    ours = loricate.attack_module(module, x, epsilon=8 / 255, seed=seed)
    plain = _plain_pgd(module, x, 8 / 255, seed=seed)
    # Ours is rounded to 8 bits, the other is not.
    assert _drift(module, x, ours) >= 0.98 * _drift(module, x, plain)


def test_large_sets_are_attacked_in_batches_that_change_nothing(module) -> None:
    images = pictures(70, dtype=torch.float32)
    together = loricate.attack_module(module, images, steps=2, n_restarts=1)
    assert together.shape == images.shape
    head = loricate.attack_module(module, images[:64], steps=2, n_restarts=1)
    assert torch.equal(together[:64], head)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("is_module", [False, True])
def test_half_precision_is_refused_with_the_way_out(dtype: torch.dtype, is_module: bool) -> None:
    with torch.random.fork_rng():
        module = torch.nn.Conv2d(3, 4, 3)
    images = torch.full((2, 3, 8, 8), 0.5)
    if is_module:
        module = module.to(dtype)
    else:
        images = images.to(dtype)
    for call in (loricate.attack_module, loricate.harden_module):
        with pytest.raises(UnsupportedError, match=r"images.float\(\) and module.float\(\)"):
            call(module, images)
