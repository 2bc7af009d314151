"""APGD against PGD of as many steps, its schedule by hand, and where it starts."""

import pytest
import torch

from loricate.attacks.apgd import APGD, _checkpoints, _Pace
from loricate.attacks.pgd import PGD
from loricate.basics.spec import from_text, read_spec, to_toml
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_autoencoder, conv_encoder, pictures

_SEEDS = range(16)


def _found(attack: Attack, norm: str, epsilon: str, build=conv_encoder) -> torch.Tensor:
    x, surface = pictures(len(_SEEDS)), ModuleSurface(build())
    threat = ThreatModel(ball=ball(norm, epsilon))
    raw = attack(surface, LatentShift(), threat, x, seeds=_SEEDS).raw
    with torch.no_grad():
        return LatentShift().value(surface(raw, _SEEDS), surface(x, _SEEDS))


@pytest.mark.parametrize("build", [conv_encoder, conv_autoencoder])
@pytest.mark.parametrize(
    ("norm", "epsilon"), [("linf", "4/255"), ("linf", "16/255"), ("l2", "1/2")]
)
@pytest.mark.parametrize("steps", [10, 50])
def test_is_at_least_as_strong_as_pgd(build, norm: str, epsilon: str, steps: int) -> None:
    adaptive, fixed, halting = (
        _found(attack, norm, epsilon, build).mean()
        for attack in (APGD(steps=steps), PGD(steps=steps, decay=False), PGD(steps=steps))
    )
    assert adaptive >= fixed
    # Which of several maxima a sample climbs is luck, and the decay of ours is good too.
    assert adaptive >= 0.995 * halting


def test_checkpoints_are_those_of_the_paper() -> None:
    assert list(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_steps_are_halved_where_too_few_gained() -> None:
    pace = _Pace(1.0, torch.zeros(3), rho=0.75)
    for values in ([1.0, 1.0, -1.0], [2.0, 0.0, -2.0], [3.0, 2.0, -3.0], [4.0, 3.0, -4.0]):
        pace.count(torch.tensor(values))
    # Four, three and none of four steps gained; three quarters are enough.
    assert pace.review(torch.tensor([4.0, 3.0, 0.0])).tolist() == [False, False, True]
    assert pace.length.tolist() == [1.0, 1.0, 0.5]


def test_steps_are_halved_where_the_best_has_not_moved() -> None:
    pace = _Pace(1.0, torch.zeros(2), rho=0.0)
    assert pace.review(torch.tensor([5.0, 5.0])).tolist() == [False, False]
    assert pace.review(torch.tensor([5.0, 6.0])).tolist() == [True, False]
    # A step that was just halved is given another stretch.
    assert pace.review(torch.tensor([5.0, 6.0])).tolist() == [False, True]
    assert pace.length.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_goes_on_from_the_result_of_another_attack(norm: str) -> None:
    first = PGD(steps=20)
    before = _found(first, norm, "8/255")
    after = _found(APGD(steps=1, start=first), norm, "8/255")
    fresh = _found(APGD(steps=1), norm, "8/255")
    assert (after >= before).all()
    assert (after > fresh).all()


def test_more_restarts_are_never_weaker() -> None:
    one, three = (_found(APGD(steps=5, n_restarts=n), "linf", "4/255") for n in (1, 3))
    assert (three >= one).all()
    assert (three > one).any()


def test_the_attack_it_starts_from_survives_a_file(tmp_path) -> None:
    attack = APGD(steps=7, start=PGD(steps=3))
    (tmp_path / "attack.toml").write_text(to_toml(attack))
    assert read_spec(Attack, tmp_path / "attack.toml") == attack
    assert from_text(Attack, "apgd:steps=7,start=none") == APGD(steps=7)
