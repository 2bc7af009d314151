"""APGD and Square against torchattacks: the same climbs from the same start, the same shapes."""

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from loricate.attacks.apgd import APGD
from loricate.attacks.square import Square, _bump
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.objective import Objective
from loricate.core.problem import Problem
from loricate.core.threat import ThreatModel
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_encoder, pictures

pytestmark = pytest.mark.golden_live

_LABELS = (0, 1, 2, 3)
_EPSILON = {"linf": 8 / 255, "l2": 0.5}


@dataclass(frozen=True, kw_only=True)
class _CrossEntropy(Objective):
    surface_kind: ClassVar[str] = "classifier"

    def reference(self, surface, x, seeds) -> Tensor:
        return torch.tensor(_LABELS)

    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, reference, reduction="none")


@dataclass(frozen=True, kw_only=True)
class _At(Attack):
    """Returns given points."""

    points: tuple[float, ...]

    def perturb(self, x: Tensor, problem: Problem) -> Tensor:
        return torch.tensor(self.points).view_as(x).to(x)


@pytest.fixture(scope="module")
def torchattacks() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchattacks")


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_apgd_climbs_as_high_from_the_same_start(norm: str, torchattacks) -> None:
    # Away from black and white, where our L2 steps use budget that clipping leaves.
    x = pictures(len(_LABELS), dtype=torch.float32, lower=0.3, upper=0.7)
    model, epsilon = (
        nn.Sequential(conv_encoder(dtype=torch.float32), nn.Flatten()).eval(),
        _EPSILON[norm],
    )
    peer = torchattacks.APGD(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=epsilon, steps=100)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        _, _, theirs, _ = peer.attack_single_run(x, torch.tensor(_LABELS))
        torch.manual_seed(3)
        draw = 2 * torch.rand(x.shape) - 1 if norm == "linf" else torch.randn(x.shape)
    budget = ball(norm, 1.0)
    start = x + epsilon * draw / budget.size(draw).view(-1, 1, 1, 1)
    attack = APGD(steps=100, start=_At(points=tuple(start.flatten().tolist())))
    threat = ThreatModel(ball=ball(norm, epsilon))
    raw = attack(ModuleSurface(model), _CrossEntropy(), threat, x, seeds=_LABELS).raw
    with torch.no_grad():
        found = nn.functional.cross_entropy(model(raw), torch.tensor(_LABELS), reduction="none")
        clean = nn.functional.cross_entropy(model(x), torch.tensor(_LABELS), reduction="none")
    # They halve at one more tie than the paper does; where that leads is the same.
    assert torch.allclose(found - clean, theirs - clean, rtol=2e-3)


@pytest.mark.parametrize("side", range(1, 10))
def test_bumps_are_those_of_square(side: int, torchattacks) -> None:
    peer = torchattacks.Square(nn.Identity(), norm="L2")
    peer.device = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        theirs = peer.eta(side)
    ours = _bump(side, theirs)
    same = torch.allclose(ours, theirs, atol=1e-6) or torch.allclose(ours, theirs.T, atol=1e-6)
    if side == 1:  # half of nothing has no length, and theirs is NaN
        assert ours.tolist() == [[-1.0]]
    else:
        assert same


def test_squares_shrink_when_theirs_do(torchattacks) -> None:
    peer = torchattacks.Square(nn.Identity(), n_queries=10_000, p_init=0.8)
    peer.rescale_schedule = False
    attack = Square(queries=10_000)
    for query in range(0, 10_000, 5):
        assert attack._share(query) == pytest.approx(peer.p_selection(query))
