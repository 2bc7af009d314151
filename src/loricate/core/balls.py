"""Norm balls around an input: project onto them, sample in them, step steepest in them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Final, Literal, Protocol, final

import torch
from torch import Tensor

from loricate.basics.errors import ConfigError, ConfigProblem, nearest
from loricate.basics.spec import PixelLength, Radius, Spec
from loricate.core.shapes import Batch, PerSample

__all__ = ["L2", "Ball", "Linf", "ball"]

_TINY: Final = 1e-12
_SMALL: Final = 1e-12  # squares of less are lost in float32
_ROUNDS: Final = 20  # each clamps more coordinates; few points need more than three
_SLACK: Final = 1e-5  # in domain units: float32 rounding, far below one gray level


@dataclass(frozen=True, kw_only=True)
class Ball(Spec):
    """All perturbations up to a radius.

    Args:
        epsilon: Radius in domain units; ``"8/255"`` is read as a fraction.
    """

    epsilon: Radius

    @property
    @abstractmethod
    def norm(self) -> str:
        """Name of the norm."""

    @abstractmethod
    def size(self, delta: Batch) -> PerSample:
        """Norm of each perturbation."""

    @abstractmethod
    def project(self, z: Batch, center: Batch) -> Batch:
        """Nearest point of the ball around ``center``."""

    def project_into_box(self, z: Batch, center: Batch, lower: float, upper: float) -> Batch:
        """Nearest point that lies in the ball and in a box around ``center``."""
        return self.project(z, center).clamp(lower, upper)

    @abstractmethod
    def sample(self, center: Batch, generators: list[torch.Generator]) -> Batch:
        """A random point of the ball, drawn on CPU with one generator a sample."""

    @abstractmethod
    def surface_sample(self, center: Batch, generators: list[torch.Generator]) -> Batch:
        """A random point at full radius: the noise an attack must beat."""

    @abstractmethod
    def steepest(self, gradient: Batch) -> Batch:
        """Unit step that gains most along a gradient, however small: attains the dual norm."""

    @abstractmethod
    def prefer(self, bold: Batch, timid: Batch, center: Batch) -> Batch:
        """``bold`` wherever the ball has room for it, ``timid`` elsewhere.

        Args:
            bold: Points that may lie outside.
            timid: Points inside, coordinate by coordinate no farther from ``center``.
            center: Center of the ball.

        Returns:
            Points inside, up to rounding.
        """


@final
@dataclass(frozen=True, kw_only=True)
class Linf(Ball):
    """At most ``epsilon`` in every coordinate.

    Args:
        epsilon: Radius; above 1 it is refused, as it nearly always lost its ``/255``.
        norm: Tells balls apart in a table.
    """

    epsilon: PixelLength
    norm: Literal["linf"] = "linf"

    def size(self, delta: Batch) -> PerSample:
        """Largest absolute coordinate."""
        return delta.flatten(1).abs().amax(1)

    def project(self, z: Batch, center: Batch) -> Batch:
        """Every coordinate clipped."""
        return torch.minimum(torch.maximum(z, center - self.epsilon), center + self.epsilon)

    def project_into_box(self, z: Batch, center: Batch, lower: float, upper: float) -> Batch:
        """Every coordinate clipped, twice."""
        epsilon = float(self.epsilon)
        return (z - center).clamp_(-epsilon, epsilon).add_(center).clamp_(lower, upper)

    def sample(self, center: Batch, generators: list[torch.Generator]) -> Batch:
        """Uniform in the ball."""
        return center + self.epsilon * (2 * _draw(center, generators, torch.rand) - 1)

    def surface_sample(self, center: Batch, generators: list[torch.Generator]) -> Batch:
        """A random corner."""
        return center + self.epsilon * (2 * _draw(center, generators, torch.rand).round() - 1)

    def steepest(self, gradient: Batch) -> Batch:
        """The sign; coordinates without gradient stay."""
        return gradient.sign()

    def prefer(self, bold: Batch, timid: Batch, center: Batch) -> Batch:
        """The choice made in every coordinate by itself."""
        return torch.where((bold - center).abs() <= self.epsilon + _SLACK, bold, timid)


@final
@dataclass(frozen=True, kw_only=True)
class L2(Ball):
    """At most ``epsilon`` in Euclidean length over the whole input.

    Args:
        norm: Tells balls apart in a table.
    """

    norm: Literal["l2"] = "l2"

    def size(self, delta: Batch) -> PerSample:
        """Euclidean length."""
        length: PerSample = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def project(self, z: Batch, center: Batch) -> Batch:
        """The perturbation scaled down."""
        delta = z - center
        return center + delta * _column(self._shrinkage(delta), delta)

    def project_into_box(self, z: Batch, center: Batch, lower: float, upper: float) -> Batch:
        """The perturbation scaled down, by less where the box already holds some of it.

        The nearest point is ``clamp(center + s * delta)`` for the largest ``s <= 1`` that fits;
        each round solves for ``s`` with the coordinates clamped by then.
        """
        delta = z - center
        scale, clamped_before = self._shrinkage(delta), 0.0
        for _ in range(_ROUNDS):
            scaled = torch.addcmul(center, delta, _column(scale, delta))
            inside = scaled.clamp(lower, upper)
            # Numbers, as torch is several times slower with booleans.
            is_clamped = scaled.sub_(inside).sign_().abs_()
            clamped = float(is_clamped.sum())
            if clamped == clamped_before:
                break
            clamped_before = clamped
            room = (self.epsilon**2 - self.size(inside - center).square()).clamp(min=0)
            free = self.size(torch.addcmul(delta, delta, is_clamped, value=-1))
            added = room / free.square().clamp(min=_TINY**3)
            scale = (scale.square() + added).sqrt().clamp(max=1.0)
        return inside

    def _shrinkage(self, delta: Batch) -> PerSample:
        return (self.epsilon / self.size(delta).clamp(min=_TINY)).clamp(max=1.0)

    def sample(self, center: Batch, generators: list[torch.Generator]) -> Batch:
        """Uniform in the ball."""
        radius = torch.stack([torch.rand((), generator=g) for g in generators])
        share = (radius ** (1 / center[0].numel())).to(center)
        return center + (self.surface_sample(center, generators) - center) * _column(share, center)

    def surface_sample(self, center: Batch, generators: list[torch.Generator]) -> Batch:
        """Uniform on the sphere."""
        return center + self.epsilon * self.steepest(_draw(center, generators, torch.randn))

    def steepest(self, gradient: Batch) -> Batch:
        """The gradient at unit length; zero where it is zero."""
        length = self.size(gradient)
        if bool((length < _SMALL).any()):
            # Scaled first: squares of a small gradient would vanish in float32.
            largest = gradient.flatten(1).abs().amax(1)
            gradient = gradient / _column(torch.where(largest > 0, largest, 1.0), gradient)
            length = self.size(gradient).clamp(min=1.0)
        return gradient / _column(length, gradient)

    def prefer(self, bold: Batch, timid: Batch, center: Batch) -> Batch:
        """As few coordinates made timid as it takes, those that save most first."""
        far, close = ((z - center).flatten(1).double().square() for z in (bold, timid))
        saved, order = (far - close).sort(dim=1, descending=True)
        excess = far.sum(1, keepdim=True) - float(self.epsilon) ** 2
        needed = saved.cumsum(1) - saved < excess
        is_timid = torch.zeros_like(needed).scatter(1, order, needed)
        return torch.where(is_timid.view_as(bold), timid, bold)


def ball(norm: str, epsilon: float | str) -> Linf | L2:
    """The ball of a norm's name.

    Args:
        norm: ``"linf"`` or ``"l2"``.
        epsilon: Radius in domain units; text may be a fraction.

    Returns:
        The ball.

    Raises:
        ConfigError: There is no such norm, or the radius does not fit.
    """
    balls: dict[str, type[Linf] | type[L2]] = {"linf": Linf, "l2": L2}
    if norm not in balls:
        problem = ConfigProblem(
            key="norm", expected="'linf' or 'l2'", got=norm, nearest=nearest(norm, balls)
        )
        raise ConfigError(problem)
    return balls[norm](epsilon=epsilon)  # type: ignore[arg-type]  # the spec parses text


class _Law(Protocol):
    def __call__(self, size: torch.Size, *, generator: torch.Generator) -> Tensor: ...


def _draw(center: Batch, generators: list[torch.Generator], law: _Law) -> Batch:
    # On CPU, so that a seed means the same picture on every device.
    return torch.stack([law(center.shape[1:], generator=g) for g in generators]).to(center)


def _column(values: PerSample, like: Batch) -> Batch:
    return values.view(-1, *(1,) * (like.ndim - 1))
