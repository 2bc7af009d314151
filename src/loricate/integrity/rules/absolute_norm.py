"""Updates that are large for any layer of their shape."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from jaxtyping import Float

from loricate.integrity._reading import adapter_of, features_of
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rule import Rule
from loricate.integrity.subject import Content, Subject

__all__ = ["AbsoluteNorm"]


@final
@dataclass(frozen=True, kw_only=True)
class AbsoluteNorm(Rule):
    """Updates that are many times as large as a layer of their shape when its training begins.

    Needs no base: a layer starts with uniform entries of variance ``1 / (3 d_in)``, so with a
    Frobenius norm of ``sqrt(d_out / 3)`` and a spectral norm near ``(sqrt(d_out / d_in) + 1) /
    sqrt(3)``, and trained weights stay within a few times of that. Fires where the Frobenius norm
    of an update is ``large`` times the first or its spectral norm ``steep`` times the second, or
    where ``usual`` times the first is the median (medium; high from four times those limits on).

    Cannot see an adapter that is scaled less than about fifty times, nor one that is large for a
    layer whose weights are small: the base at hand tells more.

    Args:
        large: Frobenius norm over that of a layer at its start.
        steep: The same of spectral norms, of which a low rank has more in each direction.
        usual: Median of the first over all updates, of which there are ``least``.
        least: Updates whose median means something.

    Source: Start of linear and convolution layers as in He et al. 2015 [he2015] with the slope that
    torch has. Of 34 adapters trained on the embedded model, 20 of them backdoored, the largest
    ratios are 1.5 and 10.4, those of clean ones 0.8 and 5.1; the largest median is 0.41.
    """

    applies_to: ClassVar = frozenset({Content.SAFETENSORS})
    needs_adapter: ClassVar = True

    large: float = 5.0
    steep: float = 25.0
    usual: float = 2.5
    least: int = 8

    def check(self, subject: Subject) -> Iterator[Finding | NotVerified]:
        """One finding for the file."""
        adapter, found = adapter_of(subject), features_of(subject)
        if adapter is None or found is None:
            return
        shapes = np.array([update.factors.shape for update in adapter.values()], np.float64)
        frobenius, spectral = (
            found.column(name) / start
            for name, start in zip(("frobenius", "spectral"), _start(shapes), strict=True)
        )
        median = float(np.median(frobenius)) if len(adapter) >= self.least else 0.0
        excess = np.maximum(frobenius / self.large, spectral / self.steep)
        worst = int(np.argmax(excess))
        most = max(float(excess[worst]), median / self.usual)
        if most < 1:
            return
        yield self.finding(
            subject,
            Severity.HIGH if most >= 4 else Severity.MEDIUM,
            f"the update has {frobenius[worst]:.3g} times the norm of a layer of its shape at the "
            f"start of training, {spectral[worst]:.3g} times in one direction",
            advice="hold it to its base with --base, or load it at a fraction of its strength",
            where=str(found.targets[worst]),
            frobenius=float(frobenius[worst]),
            spectral=float(spectral[worst]),
            median=median,
            n_modules=int(np.sum(excess >= 1)),
        )


def _start(
    shapes: Float[np.ndarray, "n 2"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Frobenius and spectral norm of layers when their training begins."""
    d_out, d_in = shapes.T
    return np.sqrt(d_out / 3), (np.sqrt(d_out / d_in) + 1) / math.sqrt(3)
