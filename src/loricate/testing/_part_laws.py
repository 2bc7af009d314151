"""What objectives, input defenses, regularizers and metrics have to keep."""

from functools import cache
from typing import Final

import torch
from torch import Tensor
from torch.autograd import grad

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import ShapeError
from loricate.core.balls import Linf
from loricate.core.defense import InputDefense, Regularizer
from loricate.core.family import Family
from loricate.core.generators import generators, sample_seeds
from loricate.core.metric import Metric
from loricate.core.objective import Objective
from loricate.core.problem import Problem
from loricate.core.shapes import Batch
from loricate.core.surface import Surface
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.defended import DefendedSurface
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import conv_autoencoder, conv_encoder, pictures

__all__ = ["INPUT_DEFENSE", "METRIC", "OBJECTIVE", "REGULARIZER"]

_STEP: Final = 1e-6
_RELATIVE: Final = 1e-5  # central differences in float64 at that step
_TRIES: Final = 10
_MARGIN: Final = 1.5  # the identity behind JPEG, the worst honest surrogate, reaches 2
_THREAT: Final = ThreatModel(ball=Linf(epsilon=8 / 255))
_SEEDS: Final = sample_seeds(0, range(3))


def value_is_one_number_a_sample(objective: Objective) -> None:
    """Values come a row each, and rows do not depend on their batch."""
    surface, x = _surface_for(objective), pictures()
    z = _nearby(x)
    together = _problem(surface, objective, x).value(z)
    assert together.shape == (3,)
    for row in range(3):
        alone = _problem(surface, objective, x[row : row + 1]).value(z[row : row + 1])
        assert torch.allclose(alone[0], together[row]), f"row {row} depends on its batch"


def reference_has_no_gradient(objective: Objective) -> None:
    """What outputs are compared with is a constant."""
    reference = objective.reference(_surface_for(objective), pictures(), _SEEDS)
    assert not reference.requires_grad


def gradient_matches_differences(objective: Objective) -> None:
    """The gradient of an attack is the slope of its value, along random directions."""
    x = pictures(lower=0.2, upper=0.8)
    problem, z = _problem(_surface_for(objective), objective, x), _nearby(x)
    _, gradient = problem.value_and_grad(z)
    for draw in range(4):
        direction = _normal(x, f"direction {draw}")
        ahead, behind = (problem.value(z + step * direction) for step in (_STEP, -_STEP))
        slope = (ahead - behind) / (2 * _STEP)
        expected = (gradient * direction).flatten(1).sum(1)
        assert torch.allclose(slope, expected, rtol=_RELATIVE), f"{expected} is not {slope}"


def transforms_pictures_to_pictures(defense: InputDefense) -> None:
    """Shape, dtype and range are kept; an odd side too, unless a model asks for more."""
    deployed = _deployed(defense)
    for dtype in (torch.float32, torch.float64):
        x = pictures(3, size=13 if deployed is defense else 12, dtype=dtype)
        output = deployed(x, _SEEDS)
        assert (output.shape, output.dtype) == (x.shape, x.dtype)
        assert output.min() >= 0, f"{output.min()} is below the box"
        assert output.max() <= 1, f"{output.max()} is above the box"


def draws_by_seed(defense: InputDefense) -> None:
    """Equal seeds give equal pictures in any batch; other seeds do if nothing is random."""
    defense, x = _deployed(defense), pictures()
    output = defense(x, _SEEDS)
    assert torch.equal(defense(x, _SEEDS), output), "two runs with the same seeds differ"
    for row, seed in enumerate(_SEEDS):
        assert torch.allclose(defense(x[row : row + 1], [seed])[0], output[row]), f"row {row}"
    others = defense(x, sample_seeds(1, range(3)))
    assert torch.equal(others, output) != defense.is_random, "is_random does not tell the truth"


def transforms_alike_with_and_without_gradient(defense: InputDefense) -> None:
    """The forward pass is the real one, whether or not an attacker is watching."""
    defense, x = _deployed(defense), pictures()
    with torch.no_grad():
        plain = defense(x, _SEEDS)
    assert torch.equal(defense(x.clone().requires_grad_(), _SEEDS), plain)


def declared_backward_is_what_gradients_see(defense: InputDefense) -> None:
    """``"identity"`` passes gradients through; ``"none"`` is the slope of the forward pass."""
    defense, x = _deployed(defense), pictures(lower=0.2, upper=0.8).requires_grad_()
    weights, direction = _normal(x, "weights"), _normal(x, "direction")
    (gradient,) = grad((defense(x, _SEEDS) * weights).sum(), x)
    assert torch.isfinite(gradient).all()
    assert gradient.flatten(1).any(1).all(), "a sample has no gradient"
    if defense.bpda == "identity":
        assert torch.equal(gradient, weights), "not the identity"
    if defense.bpda == "none":
        steps = (_STEP * direction, -_STEP * direction)
        ahead, behind = ((defense(x.detach() + step, _SEEDS) * weights).sum() for step in steps)
        slope, expected = (ahead - behind) / (2 * _STEP), (gradient * direction).sum()
        assert torch.allclose(slope, expected, rtol=_RELATIVE), f"{expected} is not {slope}"


def is_open_to_attack(defense: InputDefense) -> None:
    """Gradients through the declared backward pass are worth far more than as much noise."""
    x = pictures(size=16)
    surface = DefendedSurface(ModuleSurface(conv_encoder()), (_deployed(defense),))
    found, control = (
        attack(surface, LatentShift(), _THREAT, x, seeds=_SEEDS).value
        for attack in (PGD(steps=_TRIES), RandomNoise(n_restarts=_TRIES))
    )
    assert (found > _MARGIN * control).all(), f"{found} against noise {control}"


def vanishes_without_update(regularizer: Regularizer) -> None:
    """No update, no penalty, and no infinite slope; any update costs nothing or more."""
    base, updates = _layers(0.0)
    penalty = regularizer.penalty(base, updates)
    assert penalty.shape == ()
    assert penalty.item() == 0.0
    for gradient in grad(penalty, tuple(updates.values())):
        assert torch.isfinite(gradient).all(), "the slope at zero is not finite"
    assert regularizer.penalty(*_layers(1.0)).item() > 0, "an update as large as its weight is free"


def penalty_matches_differences(regularizer: Regularizer) -> None:
    """The gradient that training sees is the slope of the penalty."""
    base, updates = _layers(1.0)
    gradients = grad(regularizer.penalty(base, updates), tuple(updates.values()))
    directions = {name: _normal(update, name) for name, update in updates.items()}
    with torch.no_grad():
        ahead, behind = (
            regularizer.penalty(base, {k: u + step * directions[k] for k, u in updates.items()})
            for step in (_STEP, -_STEP)
        )
    expected = sum((g * d).sum() for g, d in zip(gradients, directions.values(), strict=True))
    slope = ((ahead - behind) / (2 * _STEP)).item()
    assert abs(slope - float(expected)) <= _RELATIVE * abs(slope), f"{expected} is not {slope}"


def identical_outputs_have_the_documented_value(metric: Metric) -> None:
    """Comparing with itself gives ``identical``, one value a sample."""
    x = pictures(size=16)
    value = metric(x, x.clone())
    assert value.shape == (3,)
    assert torch.allclose(value, torch.full_like(value, metric.identical), atol=1e-9)


def distance_grows(metric: Metric) -> None:
    """A larger change is farther from ``identical``."""
    x = pictures(size=16, lower=0.3, upper=0.7)
    delta = 0.05 * _normal(x, "delta")
    near, far = metric(x + delta, x), metric(x + 3 * delta, x)
    farther = torch.where(near > metric.identical, far > near, far < near)
    assert farther.all(), f"{near}, then {far}"


def symmetry_is_as_documented(metric: Metric) -> None:
    """The two change places exactly where ``is_symmetric`` says so."""
    x = pictures(size=16)
    y = (0.3 + 0.4 * x + 0.1 * _normal(x, "other")).clamp(0, 1)
    assert torch.allclose(metric(x, y), metric(y, x)) == metric.is_symmetric


def order_of_rows_does_not_matter(metric: Metric) -> None:
    """Values follow their samples."""
    x, order = pictures(size=16), [2, 0, 1]
    y = _nearby(x)
    assert torch.allclose(metric(y, x)[order], metric(y[order], x[order]))


def refuses_other_shapes(metric: Metric) -> None:
    """Outputs that do not line up with their references are an error."""
    try:
        metric(pictures(3), pictures(2))
    except ShapeError:
        return
    raise AssertionError("three outputs were compared with two references")


OBJECTIVE: Final = (
    value_is_one_number_a_sample,
    reference_has_no_gradient,
    gradient_matches_differences,
)
INPUT_DEFENSE: Final = (
    transforms_pictures_to_pictures,
    draws_by_seed,
    transforms_alike_with_and_without_gradient,
    declared_backward_is_what_gradients_see,
    is_open_to_attack,
)
REGULARIZER: Final = (vanishes_without_update, penalty_matches_differences)
METRIC: Final = (
    identical_outputs_have_the_documented_value,
    distance_grows,
    symmetry_is_as_documented,
    order_of_rows_does_not_matter,
    refuses_other_shapes,
)


@cache
def _tiny_family() -> Family:
    """A family in double precision, for defenses that need one."""
    # Not at the top: parts that need no model should not wait for diffusers.
    from loricate.families.sd15 import SD15

    family = SD15.tiny()
    for module in (family.pipe.vae, family.pipe.text_encoder, family.pipe.unet):
        module.double()
    return family


def _deployed(defense: InputDefense) -> InputDefense:
    """The defense in front of a tiny model, where it needs one."""
    needs_model = type(defense).bind is not InputDefense.bind
    return defense.bind(_tiny_family()) if needs_model else defense


def _surface_for(objective: Objective) -> Surface:
    if objective.surface_kind in ("vae", "edit"):
        return ModuleSurface(conv_autoencoder())
    return ModuleSurface(conv_encoder())


def _problem(surface: Surface, objective: Objective, x: Batch) -> Problem:
    return Problem(surface, objective, _THREAT, x, _SEEDS[: len(x)])


def _nearby(x: Batch) -> Batch:
    return (x + 0.02 * _normal(x, "nearby")).clamp(0, 1)


def _normal(like: Tensor, address: str) -> Tensor:
    (generator,) = generators([0], address)
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def _layers(size: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights with a clear largest singular value, and updates like them times ``size``."""
    base, updates = {}, {}
    for name, shape in (("wide", (5, 9)), ("tall", (8, 4))):
        base[name], updates[name] = (
            _low_rank(shape, f"{name} {part}") * scale
            for part, scale in (("base", 1.0), ("update", size))
        )
        updates[name].requires_grad_()
    return base, updates


def _low_rank(shape: tuple[int, int], address: str) -> Tensor:
    rows, columns = shape
    (generator,) = generators([0], address)
    left = torch.randn(rows, rows, generator=generator, dtype=torch.float64)
    right = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    width = min(shape)
    spectrum = 0.3 ** torch.arange(width, dtype=torch.float64)
    left, right = (_orthonormal(each)[:, :width] for each in (left, right))
    matrix: Tensor = left * spectrum @ right.mT
    return matrix


def _orthonormal(matrix: Tensor) -> Tensor:
    columns: Tensor = torch.linalg.qr(matrix)[0]
    return columns
