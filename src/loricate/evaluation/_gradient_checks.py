"""Checks of the gradient an attack follows: is it the slope, does it lead anywhere?"""

import copy
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from loricate.core.attack import AttackResult
from loricate.core.balls import Linf
from loricate.core.generators import generators
from loricate.core.problem import Problem
from loricate.core.shapes import Batch, Images
from loricate.core.threat import ThreatModel
from loricate.evaluation._bench import Bench, levelled
from loricate.evaluation.subjects import Subject
from loricate.objectives.latent_shift import LatentShift
from loricate.records.schema import Check

__all__ = ["gradient_matches_differences", "gradient_promises_gain", "line_is_smooth"]

_COSINE: Final = 0.99
_DIRECTIONS: Final = 8
_STEP: Final = 1e-5  # central differences in float64: truncation and rounding both below 1e-8
_PROMISED: Final = 0.05
_POINTS: Final = 21
_ROUGHNESS: Final = 1.5  # of a rise; 1 is monotone
_TINY: Final = 1e-12


def gradient_matches_differences(bench: Bench, epsilon: float) -> Check:
    """Whether autograd gives the slope of the objective, in float64.

    Directional derivatives along random directions are compared as vectors, one a sample.
    Preprocessing with a declared backward pass is left out: its gradient is not the slope.

    Args:
        bench: Subject and pictures.
        epsilon: Radius within which the gradient is taken.

    Returns:
        The check.
    """
    problem, declared = _double_problem(bench, epsilon)
    z = problem.start(0)
    _, gradient = problem.value_and_grad(z)
    slopes, promised = [], []
    for direction in _directions(z, bench.seed):
        ahead, behind = (problem.value(z + step * direction) for step in (_STEP, -_STEP))
        slopes.append((ahead - behind) / (2 * _STEP))
        promised.append((gradient * direction).flatten(1).sum(1))
    cosines = cosine_similarity(torch.stack(slopes), torch.stack(promised), dim=0)
    smallest = float(cosines.min())
    note = f"; declared and left out: {', '.join(declared)}" if declared else ""
    message = f"smallest cosine of gradient and central differences: {smallest:.6f}{note}"
    data = {"smallest_cosine": smallest, "left_out": float(len(declared))}
    name = bench.subject.name
    return levelled("gradient_mismatch", name, message, data, is_wrong=not smallest > _COSINE)


def gradient_promises_gain(bench: Bench, result: AttackResult, epsilon: float) -> Check:
    """Whether the gradient at the first point promises a gain worth mentioning.

    Args:
        bench: Subject and pictures.
        result: What a gradient attack found.
        epsilon: Radius of its Linf ball.

    Returns:
        The check.
    """
    name = "vanishing_gradient"
    if result.first is None:
        message = "the attack asked for no gradient"
        return Check(name=name, level="skipped", subject=bench.subject.name, message=message)
    value, size = result.first
    gains = epsilon * size * bench.pictures.images[0].numel() / value.clamp(min=_TINY)
    smallest = float(gains.min())
    message = f"the smallest gradient promises {smallest:.2f} times the objective at its start"
    data = {"smallest_promise": smallest, "mean_promise": float(gains.mean())}
    is_wrong = smallest < _PROMISED
    return levelled(name, bench.subject.name, message, data, is_wrong=is_wrong)


def line_is_smooth(bench: Bench, adversarial: Images) -> Check:
    """Whether the drift rises smoothly on the line from the clean to the attacked picture.

    Args:
        bench: Subject and pictures.
        adversarial: The attacked pictures.

    Returns:
        The check: the total variation of the curve over its rise, at worst 1 where it is monotone.
    """
    clean = bench.pictures.images
    shares = torch.linspace(0, 1, _POINTS).tolist()
    curve = torch.stack([bench.drift(clean.lerp(adversarial, share)) for share in shares])
    travelled = curve.diff(dim=0).abs().sum(0)
    roughness = float((travelled / (curve[-1] - curve[0]).abs().clamp(min=_TINY)).mean())
    message = f"from clean to attacked, drift travels {roughness:.2f} times its rise"
    data = {"roughness": roughness} | {
        f"drift_{share:.2f}": float(row.mean()) for share, row in zip(shares, curve, strict=True)
    }
    return levelled("rough_loss", bench.subject.name, message, data, is_odd=roughness > _ROUGHNESS)


def _double_problem(bench: Bench, epsilon: float) -> tuple[Problem, list[str]]:
    """The deployed encoder in double precision, and the defenses that had to be left out."""
    subject = bench.subject
    exact = tuple(each for each in subject.deployed if each.bpda == "none")
    declared = [type(d).__name__ for d in subject.defenses if d.bpda != "none"]
    family = subject.family.with_vae(copy.deepcopy(subject.family.vae).double())
    pictures = replace(bench.pictures, images=bench.pictures.images.double())
    twin = replace(bench, subject=Subject(subject.name, family, exact), pictures=pictures)
    threat = ThreatModel(ball=Linf(epsilon=epsilon))
    problem = Problem(twin.surface, LatentShift(), threat, pictures.images, twin.scoring_seeds(0))
    return problem, declared


def _directions(like: Batch, seed: int) -> list[Tensor]:
    drawn = generators([seed] * _DIRECTIONS, "direction")
    return [torch.randn(like.shape, generator=g, dtype=torch.float64).to(like) for g in drawn]
