"""Random search over squares, without gradients."""

import math
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor, nn

from loricate.basics.errors import ShapeError, UnsupportedError
from loricate.basics.spec import Count, Fraction01
from loricate.core.attack import Attack
from loricate.core.balls import L2, Linf
from loricate.core.problem import Problem
from loricate.core.shapes import Batch, Images

__all__ = ["Square"]

_HALVINGS: Final = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_OF: Final = 10_000
_TILES: Final = 5  # bumps a side in the first point
_TINY: Final = 1e-10


@final
@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Tries random squares of the largest change the ball allows, and keeps what gains.

    Asks for values alone, so it shows what gradients hide: where it beats an attack that uses
    them, they mislead.

    Args:
        queries: Points tried.
        first_share: Share of the pixels in the first squares; it is halved along a schedule.

    Source: Andriushchenko et al. 2020 [andriushchenko2020], algorithms 1 to 3. Deviates: any
    objective, and the schedule of 10,000 queries is compressed to the number given.
    """

    queries: Count = 1000
    first_share: Fraction01 = 0.8

    def perturb(self, x: Batch, problem: Problem) -> Batch:
        """Best point tried."""
        if x.ndim != 4:
            expected = "pictures (n, channels, height, width), as squares are drawn on them"
            raise ShapeError(expected, tuple(x.shape))
        draws = _Draws.of(problem, self.queries)
        best = problem.track(x)
        search = _search(problem)
        best.offer(z := problem.feasible(search.start(draws)), problem.value(z))
        for query in range(1, self.queries):
            side = _side(self._share(query), search.smallest, x)
            z = problem.feasible(search.candidate(best.x, draws.numbers[:, query], side))
            best.offer(z, problem.value(z))
        return best.x

    def _share(self, query: int) -> float:
        """Share of the pixels in a square at this point of the schedule."""
        passed = sum(query * _OF > halving * self.queries for halving in _HALVINGS)
        return float(self.first_share) * 0.5**passed


@dataclass(frozen=True)
class _Draws:
    """Uniform numbers for every query of every sample, drawn at once.

    Args:
        columns: For the stripes of the first point, (n, channels, 1, width).
        tiles: For its bumps, (n, channels, tiles, tiles).
        numbers: (n, queries, 5 + channels): two corners, an orientation, then signs.
    """

    columns: Tensor
    tiles: Tensor
    numbers: Tensor

    @classmethod
    def of(cls, problem: Problem, queries: int) -> "_Draws":
        (_, channels, _, width), like = problem.center.shape, problem.center
        shapes = ((channels, 1, width), (channels, _TILES, _TILES), (queries, 5 + channels))
        rows = [[torch.rand(s, generator=g) for s in shapes] for g in problem.random(0)]
        return cls(*(torch.stack(part).to(like) for part in zip(*rows, strict=True)))


@dataclass(frozen=True)
class _Corners:
    """Corners of a maximum-norm ball: stripes first, then squares of one color."""

    center: Images
    epsilon: float
    smallest: ClassVar[int] = 1

    def start(self, draws: _Draws) -> Images:
        return self.center + self.epsilon * _signs(draws.columns)

    def candidate(self, best: Images, numbers: Tensor, side: int) -> Images:
        color = self.epsilon * _signs(numbers[:, 5:, None, None])
        window = _Window.at(numbers[:, :2], side, best)
        return torch.where(window.mask, self.center + color, best)


@dataclass(frozen=True)
class _Bumps:
    """The sphere of a Euclidean ball: budget is moved from one square to a bump in another."""

    center: Images
    epsilon: float
    smallest: ClassVar[int] = 3

    def start(self, draws: _Draws) -> Images:
        height, width = self.center.shape[-2:]
        side = max(1, min(height, width) // _TILES)
        tiles = _signs(draws.tiles).repeat_interleave(side, -2).repeat_interleave(side, -1)
        bumps = _bump(side, self.center).repeat(_TILES, _TILES) * tiles
        top, left = (height - side * _TILES) // 2, (width - side * _TILES) // 2
        # Negative pads crop: a picture smaller than the tiles shows those in the middle.
        sides = (left, width - side * _TILES - left, top, height - side * _TILES - top)
        return self._at_full_radius(nn.functional.pad(bumps, sides))

    def candidate(self, best: Images, numbers: Tensor, side: int) -> Images:
        delta = best - self.center
        to, source = (_Window.at(numbers[:, i : i + 2], side, best) for i in (0, 2))
        bump = _bump(side, best)
        upright = (numbers[:, 4] < 0.5)[:, None, None, None]
        shape = torch.where(upright, to.holding(bump), to.holding(bump.mT))
        old = delta * to.mask
        new = shape * _signs(numbers[:, 5:, None, None]) + old / _length(old)
        moved = _length(delta * (to.mask | source.mask)).square()
        unused = (self.epsilon**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp(min=0)
        new = new / _length(new) * (unused / delta.shape[1] + moved).sqrt()
        kept = delta * ~(to.mask | source.mask)
        return self._at_full_radius(kept + new)

    def _at_full_radius(self, delta: Images) -> Images:
        length = delta.square().sum((1, 2, 3), keepdim=True).sqrt()
        return self.center + delta * (self.epsilon / (length + _TINY))


@dataclass(frozen=True)
class _Window:
    """A square of each picture.

    Args:
        rows: Distance of each row from the square's first, (n, 1, height, 1).
        columns: The same of columns, (n, 1, 1, width).
        side: Of the square.
    """

    rows: Tensor
    columns: Tensor
    side: int

    @classmethod
    def at(cls, corner: Tensor, side: int, like: Images) -> "_Window":
        height, width = like.shape[-2:]
        room = torch.tensor([height - side + 1, width - side + 1]).to(corner)
        top, left = (corner * room).long().unbind(1)
        rows = torch.arange(height, device=like.device)[:, None] - top[:, None, None, None]
        columns = torch.arange(width, device=like.device) - left[:, None, None, None]
        return cls(rows, columns, side)

    @property
    def mask(self) -> Tensor:
        rows, columns = ((each >= 0) & (each < self.side) for each in (self.rows, self.columns))
        return rows & columns

    def holding(self, pattern: Tensor) -> Tensor:
        """A pattern of the square's side there, and nothing elsewhere."""
        rows, columns = (each.clamp(0, self.side - 1) for each in (self.rows, self.columns))
        return pattern[rows, columns] * self.mask


def _search(problem: Problem) -> _Corners | _Bumps:
    match problem.ball:
        case Linf(epsilon=epsilon):
            return _Corners(problem.center, float(epsilon))
        case L2(epsilon=epsilon):
            return _Bumps(problem.center, float(epsilon))
    raise UnsupportedError("square", by=f"a ball of norm {problem.ball.norm!r}")


def _side(share: float, smallest: int, like: Images) -> int:
    height, width = like.shape[-2:]
    side = max(round(math.sqrt(share * height * width)), smallest)
    return min(side, height, width)


def _bump(side: int, like: Tensor) -> Tensor:
    """A hill beside a hole of the same energy, at unit length."""
    half = side // 2
    bump = torch.cat([_hill(half, side), -_hill(side - half, side)])
    unit: Tensor = bump / bump.square().sum().sqrt()
    return unit.to(like)


def _hill(rows: int, columns: int) -> Tensor:
    """Rectangles around the middle, each 1 / k^2 higher than the k-th around it."""
    away = torch.maximum(
        (torch.arange(rows) - rows // 2).abs()[:, None],
        (torch.arange(columns) - columns // 2).abs(),
    )
    steps = 1 / torch.arange(1, max(rows, columns) // 2 + 2).square()
    hill: Tensor = steps.flip(0).cumsum(0).flip(0)[away]
    return hill / hill.square().sum().sqrt()


def _signs(numbers: Tensor) -> Tensor:
    return 1 - 2 * numbers.round()


def _length(delta: Images) -> Tensor:
    """Euclidean length of each channel, never zero."""
    return delta.square().sum((-2, -1), keepdim=True).sqrt() + _TINY
