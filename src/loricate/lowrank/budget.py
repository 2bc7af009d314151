"""Ranks for many weights under one budget of parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from loricate.basics.arrays import Array, to_numpy
from loricate.basics.errors import ConfigError, ConfigProblem

__all__ = ["Budget"]

Shape: TypeAlias = tuple[int, int]


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """Parameters that the factors of all adapted weights may have together.

    Args:
        fraction: Share of the number of dense parameters, in (0, 1].
        min_rank: Rank every weight gets first, where its shape allows it.
        max_rank: Rank no weight exceeds; ``None`` leaves only the shape as a limit.
    """

    fraction: float
    min_rank: int = 1
    max_rank: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction <= 1.0:
            raise _misfit("fraction", "a share in (0, 1]", self.fraction)
        if self.min_rank < 0:
            raise _misfit("min_rank", "a rank of at least 0", self.min_rank)
        if self.max_rank is not None and self.max_rank < max(self.min_rank, 1):
            raise _misfit("max_rank", f"a rank of at least {max(self.min_rank, 1)}", self.max_rank)

    def parameters(self, shapes: Mapping[str, Shape]) -> int:
        """Number of factor parameters the budget allows, for weights of these matrix shapes."""
        return int(self.fraction * sum(d_out * d_in for d_out, d_in in shapes.values()))

    def from_spectra(
        self, spectra: Mapping[str, Array], shapes: Mapping[str, Shape]
    ) -> dict[str, int]:
        """Ranks that keep the most spectral energy, each weight's energy counting as 1.

        Args:
            spectra: Singular values of each weight.
            shapes: Matrix shape (d_out, d_in) of each weight, convolutions flattened.

        Returns:
            Rank of each weight, in the order of ``shapes``.

        Raises:
            ConfigError: The budget does not even hold ``min_rank`` everywhere.
        """
        energies = {name: to_numpy(s) ** 2 for name, s in spectra.items()}
        return self.from_scores({n: e / (e.sum() or 1.0) for n, e in energies.items()}, shapes)

    def from_scores(
        self, scores: Mapping[str, NDArray[np.float64]], shapes: Mapping[str, Shape]
    ) -> dict[str, int]:
        """Ranks that keep the highest total score, greedily by score per parameter.

        A weight of rank k keeps its k highest scores, which must not be negative; components with
        score 0 are kept only up to ``min_rank``. What no longer fits is passed over for cheaper
        components further down.

        Args:
            scores: Worth of each component of each weight, in any order.
            shapes: Matrix shape (d_out, d_in) of each weight, convolutions flattened.

        Returns:
            Rank of each weight, in the order of ``shapes``.

        Raises:
            ConfigError: The budget does not even hold ``min_rank`` everywhere.
        """
        ranks = {name: min(self.min_rank, *shape) for name, shape in shapes.items()}
        left = self.parameters(shapes) - sum(k * sum(shapes[n]) for n, k in ranks.items())
        if left < 0:
            dense = sum(d_out * d_in for d_out, d_in in shapes.values())
            needed = (self.parameters(shapes) - left) / dense
            expected = f"at least {needed:.4f}, which gives every weight min_rank"
            raise _misfit("fraction", expected, self.fraction)
        for name in self._by_worth(scores, shapes):
            cost = sum(shapes[name])
            if cost <= left:
                ranks[name] += 1
                left -= cost
        return ranks

    def _by_worth(
        self, scores: Mapping[str, NDArray[np.float64]], shapes: Mapping[str, Shape]
    ) -> list[str]:
        """Names in the order in which their next component is worth buying."""
        offers = []
        for name, shape in shapes.items():
            limit = min(*shape, self.max_rank or min(shape))
            best_first = np.sort(scores[name])[::-1][min(self.min_rank, *shape) : limit]
            offers += [(float(v) / sum(shape), name) for v in best_first if v > 0.0]
        # A stable sort keeps the order of ``shapes`` among equals, so results do not depend on
        # names or hashing.
        return [name for _, name in sorted(offers, key=lambda offer: -offer[0])]


def _misfit(field: str, expected: str, got: object) -> ConfigError:
    return ConfigError(ConfigProblem(key=f"budget.{field}", expected=expected, got=got))
