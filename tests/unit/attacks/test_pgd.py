"""PGD against a plain loop of the same budget, and its step lengths."""

import pytest
import torch
from torch import Tensor, nn

from loricate.attacks.pgd import PGD
from loricate.core.balls import L2, Linf, ball
from loricate.core.generators import generators
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_autoencoder, conv_encoder, pictures

_SEEDS = range(12)


def _plain_pgd(model: nn.Module, x: Tensor, budget, steps: int, step_size: float) -> Tensor:
    """Madry's attack with two restarts, written without the library's loop."""
    clean = model(x).detach()

    def shift(z: Tensor) -> Tensor:
        return (model(z) - clean).flatten(1).square().sum(1)

    best = torch.zeros(len(x), dtype=x.dtype)
    for restart in range(2):
        z = budget.sample(x, generators(_SEEDS, "plain", restart)).clamp(0, 1)
        for _ in range(steps):
            z = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(shift(z).sum(), z)
            z = budget.project(z.detach() + step_size * budget.steepest(gradient), x).clamp(0, 1)
            best = torch.maximum(best, shift(z).detach())
    return best


@pytest.mark.parametrize("build", [conv_encoder, conv_autoencoder])
@pytest.mark.parametrize("budget", [Linf(epsilon="4/255"), Linf(epsilon="16/255"), L2(epsilon=0.5)])
@pytest.mark.parametrize("steps", [5, 20])
def test_is_at_least_as_strong_as_plain_steps(build, budget, steps: int) -> None:
    model, x = build(), pictures(len(_SEEDS))
    attack = PGD(steps=steps, n_restarts=2)
    surface, threat = ModuleSurface(model), ThreatModel(ball=budget)
    raw = attack(surface, LatentShift(), threat, x, seeds=_SEEDS).raw
    found = (model(raw) - model(x)).flatten(1).square().sum(1).detach()
    for step_size in (2.5 * budget.epsilon / steps, 2 / 255, budget.epsilon / 4):
        plain = _plain_pgd(model, x, budget, steps, step_size)
        # Which of several maxima a restart climbs is luck of the sample: means are compared.
        assert found.mean() >= plain.mean(), f"under plain steps of {step_size}"


@pytest.mark.parametrize(
    ("attack", "lengths"),
    [
        (PGD(steps=4), [0.2, 0.15, 0.1, 0.05]),
        (PGD(steps=2, step_size=0.03), [0.03, 0.015]),
        (PGD(steps=5, decay=False), [0.05] * 5),
        (PGD(steps=2, step_size=0.03, decay=False), [0.03, 0.03]),
    ],
)
def test_step_lengths(attack: PGD, lengths: list[float]) -> None:
    found = [attack._length(step, 0.1) for step in range(attack.steps)]
    assert found == pytest.approx(lengths)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_more_restarts_are_never_weaker(norm: str) -> None:
    x, surface = pictures(len(_SEEDS)), ModuleSurface(conv_encoder())
    threat = ThreatModel(ball=ball(norm, "4/255"))
    one, three = (
        PGD(steps=3, n_restarts=n)(surface, LatentShift(), threat, x, seeds=_SEEDS) for n in (1, 3)
    )
    raised = [surface(r.raw, _SEEDS) - surface(x, _SEEDS) for r in (one, three)]
    first, best = (each.flatten(1).norm(dim=1) for each in raised)
    assert (best >= first).all()
    assert (best > first).any()
