"""Hypothesis strategies that draw structure: shapes, dtypes, spectra and seeds, never floats.

A failing case prints its structure and shrinks to a readable one, and its conditioning is known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.basics.arrays import Array, from_numpy, to_numpy
from loricate.lowrank.factors import LowRank

__all__ = [
    "DTYPES",
    "LIBRARIES",
    "SPECTRA",
    "FactorsCase",
    "MatrixCase",
    "adapters",
    "exact_dense",
    "factors_cases",
    "matrix_cases",
    "seeds",
    "sizes",
]

DTYPES = ("float64", "float32", "float16", "bfloat16")
LIBRARIES = ("numpy", "torch")

SPECTRA: dict[str, Callable[[int], NDArray[Any]]] = {
    "geometric": lambda k: 0.6 ** np.arange(k),
    "flat": lambda k: np.ones(k),
    "spiked": lambda k: np.where(np.arange(k) == 0, 10.0, 0.1),
    "deficient": lambda k: np.where(np.arange(k) < (k + 1) // 2, 0.8 ** np.arange(k), 0.0),
    "repeated": lambda k: 0.5 ** (np.arange(k) // 2),
    "near_tie": lambda k: 1.0 - 1e-9 * np.arange(k),
    "zero": lambda k: np.zeros(k),
}
"""Singular values in descending order, by name, for any number of them."""

seeds = st.integers(0, 2**16)
sizes = st.integers(1, 12)


@dataclass(frozen=True, kw_only=True)
class MatrixCase:
    """A matrix with a known spectrum, up to the rounding of its dtype.

    Args:
        shape: Shape.
        spectrum: Key of ``SPECTRA``.
        dtype: One of ``DTYPES``.
        library: One of ``LIBRARIES``.
        seed: Seed of the singular vectors.
    """

    shape: tuple[int, int]
    spectrum: str
    dtype: str = "float64"
    library: str = "numpy"
    seed: int = 0

    def values(self) -> NDArray[Any]:
        """Singular values before rounding."""
        return SPECTRA[self.spectrum](min(self.shape))

    def exact(self) -> NDArray[np.float64]:
        """The matrix in numpy and float64."""
        rng = np.random.default_rng(self.seed)
        k = min(self.shape)
        left, right = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in self.shape)
        return np.asarray((left * self.values()) @ right.T)

    def matrix(self) -> Array:
        """The matrix in the library and dtype of the case."""
        return from_numpy(self.exact(), like=_template(self.library, self.dtype))


@dataclass(frozen=True, kw_only=True)
class FactorsCase:
    """A weight update whose factors have known spectra.

    Args:
        A: Case of the right factor.
        B: Case of the left factor.
        scale: Factor in front of the product.
    """

    A: MatrixCase
    B: MatrixCase
    scale: float

    def factors(self) -> LowRank:
        """The update in the library and dtype of the case."""
        return LowRank(self.A.matrix(), self.B.matrix(), self.scale)

    @property
    def sides(self) -> tuple[int, int]:
        """Shape for tolerances; the rank counts where it is the longest sum."""
        rank = self.A.shape[0]
        return max(self.B.shape[0], rank), max(self.A.shape[1], rank)

    def magnitude(self) -> NDArray[np.float64]:
        """Largest singular value the product can have, as a spectrum: no cancellation."""
        sigma = max(self.A.values()) * max(self.B.values())
        return np.asarray([abs(self.scale) * sigma])


def exact_dense(update: LowRank) -> NDArray[np.float64]:
    """Dense form of an update, multiplied in numpy and float64 whatever its own library."""
    return update.scale * (to_numpy(update.B) @ to_numpy(update.A))


@st.composite
def matrix_cases(
    draw: st.DrawFn,
    *,
    sides: st.SearchStrategy[int] = sizes,
    dtypes: Sequence[str] = DTYPES,
    libraries: Sequence[str] = LIBRARIES,
    spectra: Sequence[str] = tuple(SPECTRA),
) -> MatrixCase:
    """Matrices of every structure, or of those named.

    Args:
        draw: Given by hypothesis.
        sides: Number of rows, and of columns.
        dtypes: Among ``DTYPES``.
        libraries: Among ``LIBRARIES``.
        spectra: Among the keys of ``SPECTRA``.
    """
    return MatrixCase(
        shape=(draw(sides), draw(sides)),
        spectrum=draw(st.sampled_from(spectra)),
        dtype=draw(st.sampled_from(dtypes)),
        library=draw(st.sampled_from(libraries)),
        seed=draw(seeds),
    )


@st.composite
def factors_cases(
    draw: st.DrawFn,
    *,
    shape: tuple[int, int] | None = None,
    dtypes: Sequence[str] = DTYPES,
    libraries: Sequence[str] = LIBRARIES,
) -> FactorsCase:
    """Updates of every structure; the rank may exceed what the shape can hold.

    Args:
        draw: Given by hypothesis.
        shape: Shape of the dense form, or ``None`` for any.
        dtypes: Among ``DTYPES``.
        libraries: Among ``LIBRARIES``.
    """
    d_out, d_in = shape or (draw(sizes), draw(sizes))
    rank, seed = draw(sizes), draw(seeds)
    dtype, library = draw(st.sampled_from(dtypes)), draw(st.sampled_from(libraries))
    spectrum = st.sampled_from(tuple(SPECTRA))

    def case(sides: tuple[int, int], offset: int) -> MatrixCase:
        return MatrixCase(
            shape=sides, spectrum=draw(spectrum), dtype=dtype, library=library, seed=seed + offset
        )

    scale = draw(st.sampled_from((1.0, 0.5, 2.0, 0.3, -1.0, 0.0)))
    return FactorsCase(A=case((rank, d_in), 0), B=case((d_out, rank), 1), scale=scale)


@st.composite
def adapters(
    draw: st.DrawFn,
    *,
    component: str = "vae",
    dtypes: Sequence[str] = ("float64", "float32"),
    libraries: Sequence[str] = LIBRARIES,
) -> Adapter:
    """Adapters of one component over linear layers and convolutions, of mixed ranks.

    Args:
        draw: Given by hypothesis.
        component: Component of every target.
        dtypes: Among ``DTYPES``.
        libraries: Among ``LIBRARIES``.
    """
    dtype, library = draw(st.sampled_from(dtypes)), draw(st.sampled_from(libraries))
    modules = draw(st.lists(st.sampled_from(_MODULES), min_size=1, max_size=5, unique=True))
    updates = {}
    for module in modules:
        kernel = draw(st.sampled_from((None, (1, 1), (3, 3), (1, 3))))
        c_in = draw(st.integers(1, 4))
        shape = (draw(st.integers(1, 6)), c_in * (kernel[0] * kernel[1] if kernel else 1))
        case = draw(factors_cases(shape=shape, dtypes=(dtype,), libraries=(library,)))
        update = Update(case.factors(), (c_in, *kernel) if kernel else None)
        updates[Target(component, module)] = update
    texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8)
    notes = st.dictionaries(st.sampled_from(("title", "note")), texts, max_size=2)
    return Adapter(updates, draw(notes))


# Names that end alike: a pattern for one must not hit another.
_MODULES = (
    "conv1",
    "encoder.conv1",
    "encoder.down_blocks.0.conv1",
    "encoder.mid_block.attentions.0.to_out.0",
    "encoder.mid_block.attentions.0.to_q",
    "xencoder.conv1",
    "quant_conv",
    "post_quant_conv",
)


def _template(library: str, dtype: str) -> Array:
    if library == "torch":
        import torch

        return torch.empty(0, dtype=getattr(torch, dtype))
    return np.empty(0, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
