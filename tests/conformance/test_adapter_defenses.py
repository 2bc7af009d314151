"""What every defense that trains an adapter owes to the module it is put on."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")

import torch

from loricate.adapters.adapter import Target as Place
from loricate.attacks.fgsm import FGSM
from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics import registry
from loricate.basics.errors import ConfigError, NumericalError
from loricate.core.balls import Linf
from loricate.core.generators import sample_seeds
from loricate.core.threat import ThreatModel
from loricate.core.training import silent
from loricate.defenses import _training
from loricate.defenses._adapter_defense import AdapterDefense
from loricate.defenses._target import Target
from loricate.defenses._training import Schedule
from loricate.defenses.adversarial_lora import AdversarialLora
from loricate.defenses.denoiser_lora import DenoiserLora
from loricate.defenses.drift_penalty import DriftPenalty
from loricate.defenses.plain_lora import PlainLora
from loricate.defenses.spectral_truncation import SpectralTruncation
from loricate.defenses.srl_vae import SrlVae
from loricate.integrity.digest import digest
from loricate.objectives.latent_shift import LatentShift
from loricate.objectives.reconstruction import Reconstruction
from loricate.surfaces.attach import matrix_shapes, merged_copy, target_layers
from loricate.surfaces.module import ModuleSurface
from loricate.testing._spec_laws import survives_toml
from loricate.testing.surfaces import conv_autoencoder, pictures

_BUDGET = 0.4
_EPSILON = 16 / 255
_SCHEDULE = Schedule(steps=40, batch_size=8, learning_rate=5e-2)
_LONG = replace(_SCHEDULE, steps=100)
_DEFENSES = {
    "adversarial_lora": AdversarialLora(
        inner=FGSM(), epsilon=_EPSILON, rank_budget=_BUDGET, max_drift=0.3, schedule=_SCHEDULE
    ),
    "denoiser_lora": DenoiserLora(
        inner=FGSM(), epsilon=_EPSILON, rank_budget=_BUDGET, schedule=_SCHEDULE
    ),
    "plain_lora": PlainLora(rank_budget=_BUDGET, schedule=_SCHEDULE),
    "srl_vae": SrlVae(inner=FGSM(), epsilon=_EPSILON, rank_budget=_BUDGET, schedule=_SCHEDULE),
}
_PREFIXES = ("0.",)


class _Stopped(BaseException):
    """The process is gone."""


def _module():
    return conv_autoencoder(dtype=torch.float32).requires_grad_(False)


def _target(module, **changes) -> Target:
    encoder = ModuleSurface(module[0])
    return replace(Target(module, ModuleSurface(module), _PREFIXES, encoder=encoder), **changes)


def _images():
    return pictures(12, dtype=torch.float32)


def _train(defense, target, *, seed=0, observe=silent, checkpoint=None):
    return defense.train(target, _images(), seed=seed, observe=observe, checkpoint=checkpoint)


@pytest.fixture(params=_DEFENSES)
def defense(request: pytest.FixtureRequest):
    return _DEFENSES[request.param]


@pytest.fixture(scope="module")
def trained_by_name():
    return {name: _train(defense, _target(_module())) for name, defense in _DEFENSES.items()}


@pytest.fixture
def trained(defense, trained_by_name):
    return trained_by_name[registry.key_of(type(defense))]


def _factors(trained) -> list:
    return [p.detach() for p in trained.attached.parameters()]


def _same(first, second) -> bool:
    return all(map(torch.equal, _factors(first), _factors(second)))


def test_no_defense_is_left_out() -> None:
    names = registry.names("defenses")
    classes = {name: registry.get("defenses", name) for name in names}
    assert {n for n, c in classes.items() if issubclass(c, AdapterDefense)} == {*_DEFENSES}


def test_a_spec_survives_toml(defense) -> None:
    survives_toml(defense)


def test_the_base_is_never_written_to(defense) -> None:
    module = _module()
    names, before, output = [*module.state_dict()], digest(module.state_dict()), module(_images())
    trained = _train(defense, _target(module))
    assert not torch.equal(module(_images()), output)
    trained.attached.set_gain(0.0)
    assert torch.equal(module(_images()), output)
    assert trained.attached.detach() is module
    assert torch.equal(module(_images()), output)
    assert [*module.state_dict()] == names
    assert digest(module.state_dict()) == before


def test_merged_equals_attached(trained) -> None:
    x = _images()
    attached = trained.attached.module(x).detach()
    merged = merged_copy(trained.attached)(x)
    assert torch.allclose(merged, attached, atol=1e-5 * float(attached.abs().max()))


def test_updates_stay_below_the_prefixes(trained) -> None:
    assert all(path.startswith(_PREFIXES) for path in trained.attached.updates)


def test_the_budget_holds_and_the_log_tells_the_ranks(trained) -> None:
    shapes = matrix_shapes(target_layers(trained.attached.module, _PREFIXES))
    adapter, log = trained.attached.adapter(), trained.log
    assert log.parameters_target == sum(d_out * d_in for d_out, d_in in shapes.values())
    assert 0 < adapter.n_parameters <= _BUDGET * log.parameters_target
    assert log.parameters == adapter.n_parameters
    for row in log.ranks:
        place = Place("model", row.module)
        assert row.end == (adapter[place].rank if place in adapter else 0)
        assert row.end <= min(row.start, row.maximum)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 11])
def test_the_budget_holds_after_any_number_of_steps(defense, steps: int) -> None:
    short = replace(defense, schedule=replace(_SCHEDULE, steps=steps))
    log = _train(short, _target(_module())).log
    assert 0 < log.parameters <= _BUDGET * log.parameters_target


def _robust_drift(surface) -> float:
    x = _images()
    threat = ThreatModel(ball=Linf(epsilon=_EPSILON))
    attack = PGD(steps=20)(surface, LatentShift(), threat, x, seeds=sample_seeds(9, range(len(x))))
    return float(attack.value.mean())


def _error(surface) -> float:
    x = _images()
    with torch.no_grad():
        return float((surface(x, [0] * len(x)) - x).square().mean())


def _hardened(defense) -> ModuleSurface:
    longer = replace(defense, schedule=_LONG)
    return ModuleSurface(_train(longer, _target(_module())).attached.module)


def test_the_adversarial_one_resists_an_attack_it_was_not_trained_with() -> None:
    defense = _DEFENSES["adversarial_lora"]
    hardened = _robust_drift(_hardened(defense))
    assert hardened < 0.85 * _robust_drift(ModuleSurface(_module()))
    # Noise in the place of the attack is a control, and has to gain less.
    assert hardened < _robust_drift(_hardened(replace(defense, inner=RandomNoise())))


def test_the_plain_one_reproduces_pictures_better() -> None:
    hardened = _error(_hardened(_DEFENSES["plain_lora"]))
    assert hardened < 0.9 * _error(ModuleSurface(_module()))


def _attacked_error(surface) -> float:
    """Of reconstructions of pictures under an attack no training has seen."""
    x = _images()
    threat = ThreatModel(ball=Linf(epsilon=_EPSILON))
    seeds = sample_seeds(9, range(len(x)))
    return float(PGD(steps=20)(surface, Reconstruction(), threat, x, seeds=seeds).value.mean())


def test_the_one_for_autoencoders_reconstructs_better_under_attack() -> None:
    longer = replace(_DEFENSES["srl_vae"], schedule=_LONG)
    both_halves = _train(longer, _target(_module(), prefixes=("",)))
    hardened = _attacked_error(ModuleSurface(both_halves.attached.module))
    assert hardened < 0.9 * _attacked_error(ModuleSurface(_module()))
    assert both_halves.log.curves[-1]["drift"] < 0.3


def test_the_originality_of_latents_is_held_on_to_by_its_weight() -> None:
    free, held = (
        _train(replace(_DEFENSES["srl_vae"], originality=w), _target(_module())).log.curves[-1]
        for w in (0.0, 100.0)
    )
    assert held["drift"] < 0.5 * free["drift"]


def test_the_one_for_autoencoders_needs_to_know_the_encoder() -> None:
    module = _module()
    with pytest.raises(ConfigError) as caught:
        _train(_DEFENSES["srl_vae"], _target(module, encoder=None))
    assert caught.value.problems[0].key == "encoder"
    assert type(module[0][0]) is torch.nn.Conv2d


def test_the_one_for_denoisers_lowers_its_error_under_attack() -> None:
    curves = _train(_DEFENSES["denoiser_lora"], _target(_module())).log.curves
    assert curves[-1]["robust"] < 0.9 * curves[0]["robust"]
    assert all(row["robust"] >= row["clean"] for row in curves)


def test_training_is_what_the_seed_says(defense, trained) -> None:
    assert _same(_train(defense, _target(_module())), trained)
    assert not _same(_train(defense, _target(_module()), seed=1), trained)


@pytest.mark.parametrize("at", [1, 9, 25, 40])
def test_resuming_equals_never_having_stopped(
    defense, trained, at: int, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_training, "_CHECKPOINT_EVERY_S", 0.0)
    checkpoint = tmp_path / "new" / "checkpoint.safetensors"

    def stop(phase, done, total, measured) -> None:
        if done == at:
            raise _Stopped

    module = _module()
    names = [*module.state_dict()]
    with pytest.raises(_Stopped):
        _train(defense, _target(module), observe=stop, checkpoint=checkpoint)
    assert [*module.state_dict()] == names, "a stopped training left its adapter on the module"
    seen = []
    resumed = _train(
        defense,
        _target(module),
        observe=lambda phase, done, total, measured: seen.append(done),
        checkpoint=checkpoint,
    )
    # The observer hears of a step before it is saved, so the step it stopped at is done again.
    assert seen == list(range(at, 41))
    assert _same(resumed, trained)
    assert resumed.log.curves == trained.log.curves
    assert resumed.log.ranks == trained.log.ranks


def test_a_finished_training_is_not_done_again(defense, trained, tmp_path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    _train(defense, _target(_module()), checkpoint=checkpoint)

    def never(*_) -> None:
        raise AssertionError

    again = _train(defense, _target(_module()), observe=never, checkpoint=checkpoint)
    assert _same(again, trained)
    assert again.log.ranks == trained.log.ranks


def test_the_checkpoint_of_another_run_is_refused(defense, tmp_path) -> None:
    short = replace(defense, schedule=replace(_SCHEDULE, steps=2))
    checkpoint = tmp_path / "checkpoint.safetensors"
    _train(short, _target(_module()), checkpoint=checkpoint)
    other = _module()
    other[0][0].weight.mul_(1.5)
    longer = replace(short, schedule=replace(_SCHEDULE, steps=3))
    fewer = dict.fromkeys(target_layers(other, _PREFIXES), 1)
    for spec, module, seed, ranks in [
        (short, other, 0, None),
        (short, _module(), 1, None),
        (longer, _module(), 0, None),
        (short, _module(), 0, fewer),
    ]:
        with pytest.raises(ConfigError) as caught:
            _train(spec, _target(module, ranks=ranks), seed=seed, checkpoint=checkpoint)
        assert caught.value.problems[0].key == "resume"
        assert type(module[0][0]) is torch.nn.Conv2d


def test_given_ranks_are_kept(defense) -> None:
    module = _module()
    paths = [*target_layers(module, _PREFIXES)]
    trained = _train(defense, _target(module, ranks={paths[0]: 3, paths[1]: 99}))
    ends = {row.module: row.end for row in trained.log.ranks}
    assert ends == {paths[0]: 3, paths[1]: min(4, 8 * 9)}


def test_full_fine_tuning_is_the_same_training_with_full_ranks(defense) -> None:
    module = _module()
    before = digest(module.state_dict())
    trained = _train(defense, _target(module, is_dense=True))
    shapes = matrix_shapes(target_layers(_module(), _PREFIXES))
    assert trained.log.parameters == sum(d_out * d_in for d_out, d_in in shapes.values())
    assert {row.module: row.end for row in trained.log.ranks} == {
        p: min(s) for p, s in shapes.items()
    }
    assert {p: min(u.factors.shape) for (_, p), u in trained.attached.adapter().items()} == {
        p: min(s) for p, s in shapes.items()
    }
    assert digest(trained.attached.detach().state_dict()) == before


def test_a_loss_that_is_not_finite_names_its_step(defense) -> None:
    module = _module()

    class Broken(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Broken.calls += 1
            output = module(x)
            return output * float("nan") if output.requires_grad and Broken.calls > 8 else output

    target = replace(_target(module), surface=ModuleSurface(Broken()))
    with pytest.raises(NumericalError):
        _train(defense, target)
    assert type(module[0][0]) is torch.nn.Conv2d


def test_regularizers_take_part() -> None:
    plain = _DEFENSES["adversarial_lora"]
    held = replace(plain, regularizers=(DriftPenalty(weight=1e3),))
    sizes = [
        sum(
            float(u.matrix().detach().square().sum())
            for u in _train(d, _target(_module())).attached.updates.values()
        )
        for d in (plain, held)
    ]
    assert sizes[1] < 0.5 * sizes[0]


def test_the_anchor_rises_while_clean_drift_is_too_large() -> None:
    strict = replace(_DEFENSES["adversarial_lora"], max_drift=1e-3)
    loose = replace(strict, max_drift=1.0)
    ends = [_train(d, _target(_module())).log.curves[-1]["anchor"] for d in (strict, loose)]
    assert ends[0] > 1.0 > ends[1]


def test_the_radius_grows_and_then_stays() -> None:
    defense = replace(_DEFENSES["adversarial_lora"], ramp=0.5)
    radii = [defense.radius(step) for step in range(40)]
    assert radii[0] == pytest.approx(_EPSILON / 20)
    assert radii[19:] == [pytest.approx(_EPSILON)] * 21
    assert sorted(radii) == radii


def test_truncation_keeps_the_base_and_lowers_ranks() -> None:
    module = _module()
    before = digest(module.state_dict())
    truncated = SpectralTruncation(energy=0.7).apply(module, _PREFIXES)
    assert digest(module.state_dict()) == before
    for path, layer in target_layers(module, _PREFIXES).items():
        weight, low = layer.weight.flatten(1), truncated.get_submodule(path).weight.flatten(1)
        share = 1 - float((weight - low).square().sum() / weight.square().sum())
        assert 0.7 <= share < 1
        assert torch.linalg.matrix_rank(low) < min(weight.shape)
    assert torch.equal(truncated[1][1].weight, module[1][1].weight)


def test_truncation_at_full_energy_is_the_base() -> None:
    module, x = _module(), _images()
    assert torch.allclose(SpectralTruncation(energy=1.0).apply(module)(x), module(x), atol=1e-5)
