"""PGD against foolbox and torchattacks: the same steps from the same start, live."""

import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from loricate.attacks.pgd import PGD
from loricate.core.balls import ball
from loricate.core.objective import Objective
from loricate.core.threat import ThreatModel
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_encoder, pictures

pytestmark = pytest.mark.golden_live

_LABELS = (0, 1, 2)
_EPSILON = {"linf": 8 / 255, "l2": 0.5}
_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class _CrossEntropy(Objective):
    surface_kind: ClassVar[str] = "classifier"

    def reference(self, surface, x, seeds) -> Tensor:
        return torch.tensor(_LABELS)

    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, reference, reduction="none")


def _peer(name: str) -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def _classifier() -> nn.Module:
    return nn.Sequential(conv_encoder(dtype=torch.float32), nn.Flatten()).eval()


def _ours(norm: str, x: Tensor, model: nn.Module) -> Tensor:
    attack = PGD(steps=_STEPS, step_size=_EPSILON[norm] / 4, decay=False, random_start=False)
    threat = ThreatModel(ball=ball(norm, _EPSILON[norm]))
    result = attack(ModuleSurface(model), _CrossEntropy(), threat, x, seeds=[0] * len(x))
    values = [value for value, _ in result.history]
    assert values == sorted(values)  # so that the best iterate is the last, as the peers return
    return result.raw


def _foolbox(norm: str, x: Tensor, model: nn.Module) -> Tensor:
    foolbox = _peer("foolbox")
    cls = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    attack = cls(rel_stepsize=0.25, steps=_STEPS, random_start=False)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack.run(peer, x, torch.tensor(_LABELS), epsilon=_EPSILON[norm])


def _torchattacks(norm: str, x: Tensor, model: nn.Module) -> Tensor:
    peer, epsilon = _peer("torchattacks"), _EPSILON[norm]
    cls = {"linf": peer.PGD, "l2": peer.PGDL2}[norm]
    attack = cls(model, eps=epsilon, alpha=epsilon / 4, steps=_STEPS, random_start=False)
    return attack(x, torch.tensor(_LABELS))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("peer", [_foolbox, _torchattacks])
def test_same_steps_same_result(peer, norm: str) -> None:
    # Away from black and white: peers project onto the L2 ball, then clip, which leaves budget.
    x, model = pictures(len(_LABELS), dtype=torch.float32, lower=0.3, upper=0.7), _classifier()
    ours, theirs = _ours(norm, x, model), peer(norm, x, model).detach()
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours, x, atol=1e-2)
