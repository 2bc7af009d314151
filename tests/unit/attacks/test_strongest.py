"""The worst case over attacks: never below one of them, and a value like any other."""

from dataclasses import dataclass

import pytest
import torch

from loricate.attacks.fgsm import FGSM
from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.attacks.strongest import Strongest
from loricate.basics.errors import ConfigError
from loricate.basics.spec import read_spec, to_toml
from loricate.core.attack import Attack, AttackResult
from loricate.core.balls import ball
from loricate.core.problem import Problem
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_encoder, pictures

_SEEDS = range(8)


@dataclass(frozen=True, kw_only=True)
class _Noise(Attack):
    """One random point; which of several is best is luck of the sample."""

    number: int

    def perturb(self, x: torch.Tensor, problem: Problem) -> torch.Tensor:
        return problem.noise(self.number)


_PARTS = (FGSM(), _Noise(number=1), PGD(steps=1, step_size="1/255"), _Noise(number=2))


def _result(attack: Attack, norm: str) -> AttackResult:
    surface, threat = ModuleSurface(conv_encoder()), ThreatModel(ball=ball(norm, "8/255"))
    return attack(surface, LatentShift(), threat, pictures(len(_SEEDS)), seeds=_SEEDS)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_takes_the_best_of_each_sample(norm: str) -> None:
    x, encoder = pictures(len(_SEEDS)), conv_encoder()

    noises = tuple(_Noise(number=n) for n in range(4))

    def value(attack: Attack) -> torch.Tensor:
        with torch.no_grad():
            return (encoder(_result(attack, norm).raw) - encoder(x)).flatten(1).square().sum(1)

    parts = torch.stack([value(part) for part in noises])
    assert torch.allclose(value(Strongest(attacks=noises)), parts.amax(0), rtol=1e-12)
    assert len(parts.argmax(0).unique()) > 1  # not one attack that always wins


def test_asks_for_what_its_parts_ask_for() -> None:
    together = _result(Strongest(attacks=_PARTS), "linf")
    alone = [_result(part, "linf") for part in _PARTS]
    n = len(_SEEDS)
    # The clean output and the final score are asked for once; each part's end is looked at.
    assert together.calls == sum(r.calls - 2 * n for r in alone) + 2 * n + len(_PARTS) * n
    assert len(together.history) == sum(len(r.history) for r in alone)


def test_nested_attacks_survive_a_file(tmp_path) -> None:
    attack = Strongest(attacks=(PGD(steps=3), Strongest(attacks=(RandomNoise(),))))
    (tmp_path / "attack.toml").write_text(to_toml(attack))
    assert read_spec(Attack, tmp_path / "attack.toml") == attack


def test_there_must_be_something_to_choose_from() -> None:
    with pytest.raises(ConfigError) as caught:
        Strongest(attacks=())
    assert caught.value.problems[0].key == "attacks"


def test_a_bad_part_is_named_by_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        Strongest(attacks=(PGD(), {"name": "pgd", "steps": 0}))  # type: ignore[arg-type]
    assert caught.value.problems[0].key == "attacks.1.steps"
