"""Estimated gradients: their direction, their strength, their indifference to masked gradients."""

import pytest
import torch

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.attacks.spsa import SPSA
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.problem import Problem
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_encoder, pictures

_SEEDS = range(4)


def _threat(norm: str) -> ThreatModel:
    return ThreatModel(ball=ball(norm, "16/255"))


def _shift(attack: Attack, norm: str, function=None) -> torch.Tensor:
    x, encoder = pictures(len(_SEEDS)), conv_encoder()
    surface = ModuleSurface(function or encoder)
    raw = attack(surface, LatentShift(), _threat(norm), x, seeds=_SEEDS).raw
    with torch.no_grad():
        return (encoder(raw) - encoder(x)).flatten(1).square().sum(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("directions", ["signs", "normal"])
def test_the_estimate_points_along_the_gradient(norm: str, directions: str) -> None:
    x = pictures(len(_SEEDS), size=4, lower=0.3, upper=0.7)
    problem = Problem(ModuleSurface(conv_encoder()), LatentShift(), _threat(norm), x, _SEEDS)
    z = problem.start(0)
    z = problem.feasible(x + (z - x) / 2)  # moves stay inside
    attack = SPSA(n_pairs=400, reach=0.05, directions=directions)
    guess = attack._estimate(z, problem.track(x), problem, problem.random(1)).flatten(1)
    _, gradient = problem.value_and_grad(z)
    cosine = torch.cosine_similarity(guess, gradient.flatten(1))
    # Expected: sqrt(pairs / (pairs + coordinates)), coordinates being 48.
    assert (cosine > 0.9).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_lies_between_noise_and_gradients(norm: str) -> None:
    found = _shift(SPSA(steps=20), norm)
    assert (found > _shift(RandomNoise(n_restarts=100), norm)).all()
    assert (found <= _shift(PGD(steps=20), norm)).all()


def test_climbs_where_gradients_lie() -> None:
    encoder, other = conv_encoder(), conv_encoder(1)

    def masked(z: torch.Tensor) -> torch.Tensor:
        elsewhere = other(z)
        return encoder(z).detach() + elsewhere - elsewhere.detach()  # right values, wrong slopes

    honest, misled = (_shift(attack, "l2", masked) for attack in (SPSA(), PGD(steps=40)))
    assert (honest > misled).all()
