"""Poisoning: turns of learning and ascent, and what it must not touch."""

from dataclasses import dataclass, field

import pytest
import torch

from loricate.attacks.pgd import PGD
from loricate.attacks.poison import Poison
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import UnsupportedError
from loricate.core.balls import Linf
from loricate.core.domain import PIXELS
from loricate.core.surrogate import Surrogate
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import UnmovedSurrogate, conv_encoder, pictures

_THREAT = ThreatModel(ball=Linf(epsilon="8/255"))
_INNER = PGD(steps=6, random_start=False)


def _run(attack, surface, x):
    return attack(surface, LatentShift(), _THREAT, x, seeds=list(range(len(x))))


@dataclass
class _Wary(Surrogate):
    """Learns to answer less where it was attacked, and remembers what it was shown."""

    encoder: torch.nn.Module
    strength: float = 1.0
    shown: list = field(default_factory=list)

    domain = PIXELS

    def __call__(self, x, seeds):
        return self.strength * self.encoder(x)

    def adapt(self, x, seeds):
        self.shown.append(x.clone())
        self.strength *= 0.5

    def reset(self):
        self.strength = 1.0


def test_without_learning_it_is_its_inner_attack() -> None:
    surface, x = UnmovedSurrogate(ModuleSurface(conv_encoder())), pictures(2)
    poison = _run(Poison(rounds=1, inner=_INNER), surface, x)
    assert torch.equal(poison.raw, _run(PGD(steps=6), surface, x).raw)


def test_more_rounds_are_never_weaker_on_what_does_not_learn() -> None:
    surface, x = UnmovedSurrogate(ModuleSurface(conv_encoder())), pictures(2)
    values = [_run(Poison(rounds=r, inner=_INNER), surface, x).value for r in (1, 2, 4)]
    assert (values[1] >= values[0]).all()
    assert (values[2] >= values[1]).all()
    assert (values[2] > _run(RandomNoise(), surface, x).value).all()


def test_the_surrogate_sees_clean_pictures_first_and_attacked_ones_later() -> None:
    surface, x = _Wary(conv_encoder()), pictures(2)
    result = _run(Poison(rounds=3, inner=_INNER), surface, x)
    first, second, third = surface.shown
    assert torch.equal(first, x)
    assert not torch.equal(second, x)
    assert not torch.equal(third, second)
    assert (_THREAT.ball.size(third - x) <= _THREAT.ball.epsilon + 1e-9).all()
    # Scored by the surrogate as it ended, not as it began.
    begun = LatentShift().value(conv_encoder()(result.adversarial), conv_encoder()(x))
    assert torch.allclose(result.value, begun * 0.125**2)


def test_two_runs_on_one_surrogate_agree() -> None:
    surface, x = _Wary(conv_encoder()), pictures(2)
    attack = Poison(rounds=2, inner=_INNER)
    assert torch.equal(_run(attack, surface, x).raw, _run(attack, surface, x).raw)


def test_what_does_not_learn_is_refused() -> None:
    with pytest.raises(UnsupportedError) as caught:
        _run(Poison(), ModuleSurface(conv_encoder()), pictures(2))
    assert caught.value.what == "poisoning"
