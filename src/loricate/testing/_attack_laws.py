"""What an attack has to keep, on tiny encoders in float64."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from loricate.basics.errors import NumericalError
from loricate.core.attack import Attack, AttackResult
from loricate.core.balls import L2, Linf
from loricate.core.generators import Seeds, generators, sample_seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import (
    CountingSurface,
    NoisySurface,
    PlantedSurface,
    UnmovedSurrogate,
    conv_encoder,
    pictures,
)

__all__ = ["laws"]

_BALLS: Final = (Linf(epsilon=8 / 255), L2(epsilon=0.5))
_ROUNDING: Final = 1e-9  # float64, after some hundred steps
_SHIFT: Final = LatentShift()
_NOISE_DRAWS: Final = 8
_PLANTED_SHARE: Final = 0.95


@dataclass(frozen=True)
class _Case:
    surface: Surface
    x: Batch
    ball: Linf | L2 = _BALLS[0]
    objective: Objective = _SHIFT
    eot_samples: int = 1
    root: int = 0

    @property
    def seeds(self) -> Seeds:
        return sample_seeds(self.root, range(len(self.x)))

    def run(self, attack: Attack, seeds: Seeds | None = None) -> AttackResult:
        threat = ThreatModel(ball=self.ball, eot_samples=self.eot_samples)
        seeds = self.seeds if seeds is None else seeds
        # What needs a surrogate has one; other attacks do not notice.
        surface = UnmovedSurrogate(self.surface)
        return attack(surface, self.objective, threat, self.x, seeds=seeds)

    def value(self, x: Batch) -> PerSample:
        """The objective, scored without the harness; for surfaces that are not random."""
        with torch.no_grad():
            reference = self.objective.reference(self.surface, self.x, self.seeds)
            return self.objective.value(self.surface(x, self.seeds), reference)


def laws(attack: Attack) -> tuple[Callable[[Attack], None], ...]:
    """The laws of an attack, more of them for one that uses gradients, or many."""
    steps = len(_case().run(attack).history)
    return (*_ALWAYS, *(_WITH_GRADIENT if steps else ()), *(_ITERATIVE if steps > 1 else ()))


def stays_in_ball_and_box(attack: Attack) -> None:
    """Neither the raw nor the saved result leaves the ball or the box."""
    for case in _cases():
        result = case.run(attack)
        for z in (result.raw, result.adversarial):
            size = case.ball.size(z - case.x)
            assert (size <= case.ball.epsilon + _ROUNDING).all(), f"{size} > {case.ball}"
            assert z.min() >= 0, f"{z.min()} is below the box"
            assert z.max() <= 1, f"{z.max()} is above the box"


def keeps_shape_and_dtype(attack: Attack) -> None:
    """Results are tensors like the input."""
    for dtype in (torch.float32, torch.float64):
        x = pictures(2, dtype=dtype)
        result = _Case(ModuleSurface(conv_encoder(dtype=dtype)), x).run(attack)
        for z in (result.raw, result.adversarial):
            assert (z.shape, z.dtype, z.device) == (x.shape, x.dtype, x.device)


def leaves_input_and_model_alone(attack: Attack) -> None:
    """Pixels, parameters, buffers, gradients and training flags are what they were."""
    module = nn.Sequential(conv_encoder(), nn.Dropout(0.0), nn.BatchNorm2d(4).double().eval())
    x = pictures()
    before = _state(module), x.clone()
    _Case(ModuleSurface(module), x).run(attack)
    assert torch.equal(x, before[1]), "the attack changed its input"
    assert _state(module) == before[0], "the attack changed the model"


def leaves_global_generators_alone(attack: Attack) -> None:
    """Randomness comes from the seeds, never from shared generators."""
    before = _global_states()
    _case().run(attack)
    assert _global_states() == before, "the attack drew from a global generator"


def same_seed_same_result(attack: Attack) -> None:
    """Runs are repeatable, on a random surface too."""
    case = _case()
    for each in (case, replace(case, surface=NoisySurface(case.surface), eot_samples=2)):
        first, second = each.run(attack), each.run(attack)
        assert torch.equal(first.raw, second.raw), "two runs with the same seeds differ"
        assert torch.equal(first.value, second.value)


def without_budget_returns_the_input(attack: Attack) -> None:
    """In a ball of radius 0 there is nothing but the input."""
    for ball in (Linf(epsilon=0), L2(epsilon=0)):
        case = replace(_case(), ball=ball)
        result = case.run(attack)
        assert torch.equal(result.raw, case.x), "the attack moved without a budget"
        assert torch.equal(result.adversarial, case.x)


def is_never_worse_than_the_input(attack: Attack) -> None:
    """The value reported is the value of what was returned, and not below the input's."""
    for case in _cases():
        result = case.run(attack)
        value, clean_value = case.value(result.adversarial), case.value(case.x)
        assert torch.allclose(result.value, value), f"reported {result.value}, is {value}"
        assert torch.allclose(result.clean_value, clean_value)
        assert (value >= clean_value).all(), f"{value} is below {clean_value}"


def batch_mates_do_not_matter(attack: Attack) -> None:
    """A batch of three is three batches of one."""
    case = _case()
    together = case.run(attack)
    for row, seed in enumerate(case.seeds):
        alone = replace(case, x=case.x[row : row + 1]).run(attack, [seed])
        assert torch.allclose(alone.raw[0], together.raw[row], atol=_ROUNDING), f"row {row}"
        assert torch.allclose(alone.value[0], together.value[row]), f"row {row}"


def survives_8_bits(attack: Attack) -> None:
    """The saved result is a picture of 256 levels whose file has the value reported."""
    for case in _cases():
        result = case.run(attack)
        stored = (result.adversarial * 255).round().to(torch.uint8)
        read = stored.to(case.x) / 255
        assert torch.allclose(read, result.adversarial, atol=_ROUNDING), "not an 8-bit picture"
        assert torch.allclose(case.value(read), result.value)


def refuses_nan(attack: Attack) -> None:
    """NaN in the input or the output is an error, never a result."""
    case = _case()
    hole = case.x.clone()
    hole[0, 0, 0, 0] = math.nan
    for broken in (
        replace(case, x=hole),
        replace(case, surface=ModuleSurface(lambda x: x * math.nan)),
    ):
        try:
            broken.run(attack)
        except NumericalError:
            continue
        raise AssertionError("NaN went through")


def counts_calls(attack: Attack) -> None:
    """Every sample the surface is asked for is counted."""
    surface = CountingSurface(_case().surface)
    case = replace(_case(), surface=surface)
    result = case.run(attack)
    asked = sum(surface.rows)
    assert result.calls == asked, f"counted {result.calls} of {asked} samples"


def beats_noise(attack: Attack) -> None:
    """Every sample ends above random points at full radius, which a stationary start would not."""
    for case in _cases():
        result = case.run(attack)
        for draw in range(_NOISE_DRAWS):
            noise = case.ball.surface_sample(case.x, generators(case.seeds, "control", draw))
            value = case.value(noise.clamp(0, 1))
            assert (result.value > value).all(), f"{result.value} under noise {value}"


def sees_through_randomness(attack: Attack) -> None:
    """On a random surface, averaged gradients raise the mean over draws not attacked with."""
    case = _case()
    noisy = replace(case, surface=NoisySurface(case.surface), eot_samples=4)
    result = noisy.run(attack)
    noise = case.ball.surface_sample(case.x, generators(case.seeds, "control")).clamp(0, 1)
    fresh = [replace(noisy, root=root) for root in range(1, 9)]
    attacked, control = (
        torch.stack([each.value(z) for each in fresh]).mean(0) for z in (result.adversarial, noise)
    )
    assert (attacked > control).all(), f"{attacked} under noise {control}"


def finds_a_planted_optimum(attack: Attack) -> None:
    """An optimum known in closed form is reached to 95 percent."""
    for ball in _BALLS:
        x = pictures(2, lower=0.4, upper=0.6)
        surface = PlantedSurface.of(x)
        case = _Case(surface, x, ball)
        share = case.value(case.run(attack).raw) / surface.optimum(ball)
        assert (share >= _PLANTED_SHARE).all(), f"reached {share} of the optimum in {ball}"


_ALWAYS: Final = (
    stays_in_ball_and_box,
    keeps_shape_and_dtype,
    leaves_input_and_model_alone,
    leaves_global_generators_alone,
    same_seed_same_result,
    without_budget_returns_the_input,
    is_never_worse_than_the_input,
    batch_mates_do_not_matter,
    survives_8_bits,
    refuses_nan,
    counts_calls,
)
_WITH_GRADIENT: Final = (beats_noise, sees_through_randomness)
_ITERATIVE: Final = (finds_a_planted_optimum,)


def _case() -> _Case:
    return _Case(ModuleSurface(conv_encoder()), pictures())


def _cases() -> Iterator[_Case]:
    for ball in _BALLS:
        yield replace(_case(), ball=ball)


def _state(module: nn.Module) -> dict[str, Any]:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        "tensors": {name: tensor.detach().double().tolist() for name, tensor in tensors.items()},
        "gradients": [name for name, p in module.named_parameters() if p.grad is not None],
        "differentiable": [p.requires_grad for p in module.parameters()],
        "training": [each.training for each in module.modules()],
    }


def _global_states() -> dict[str, Any]:
    legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - what must not move
    return {
        "random": random.getstate(),
        "numpy": (legacy["key"].tobytes(), legacy["pos"]),
        "torch": torch.get_rng_state().tolist(),
    }
