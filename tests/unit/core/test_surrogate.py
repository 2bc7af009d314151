"""Problems on surfaces that learn: what is forgotten, and what is drawn anew."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from loricate.basics.errors import UnsupportedError
from loricate.core.balls import Linf
from loricate.core.domain import PIXELS
from loricate.core.problem import Problem
from loricate.core.surrogate import Surrogate
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_encoder, pictures

_THREAT = ThreatModel(ball=Linf(epsilon="8/255"), eot_samples=2)


@dataclass
class _Doubling(Surrogate):
    """Twice the pixels after every adaptation; remembers what it was asked and shown."""

    factor: float = 1.0
    seen: list[list[int]] = field(default_factory=list)
    shown: list[tuple[Tensor, list[int]]] = field(default_factory=list)

    domain = PIXELS
    is_random = True

    def __call__(self, x, seeds):
        self.seen.append(list(seeds))
        return self.factor * x

    def adapt(self, x, seeds):
        self.factor *= 2
        self.shown.append((x, list(seeds)))

    def reset(self):
        self.factor = 1.0


def _problem(surface, x):
    return Problem(surface, LatentShift(), _THREAT, x, list(range(len(x))))


def test_a_problem_begins_with_a_surrogate_that_knows_nothing() -> None:
    surface, x = _Doubling(factor=8.0), pictures(2)
    _problem(surface, x)
    assert surface.factor == 1.0


def test_after_adapting_values_are_those_of_the_new_model() -> None:
    surface, x = _Doubling(), pictures(2)
    problem = _problem(surface, x)
    z = (x + 0.01).clamp(0, 1)
    before = problem.value(z)
    assert torch.equal(problem.clean_value, torch.zeros(2, dtype=x.dtype))
    problem.adapt(z)
    # References are those of the new model too: the displacement doubled, its square is fourfold.
    assert torch.allclose(problem.value(z), 4 * before)
    assert torch.equal(problem.clean_value, torch.zeros(2, dtype=x.dtype))


def test_every_adaptation_has_seeds_and_draws_of_its_own() -> None:
    surface, x = _Doubling(), pictures(2)
    problem = _problem(surface, x)
    for _ in range(2):
        problem.adapt(x)
    pools = [tuple(seeds) for seeds in surface.seen]
    assert len(pools) == len(set(pools)) == 6
    (shown, first), (_, second) = surface.shown
    assert torch.equal(shown, x)
    assert not set(first) & set(second)


def test_what_does_not_learn_cannot_be_adapted() -> None:
    x = pictures(2)
    problem = _problem(ModuleSurface(conv_encoder()), x)
    with pytest.raises(UnsupportedError) as caught:
        problem.adapt(x)
    assert caught.value.what == "poisoning"
