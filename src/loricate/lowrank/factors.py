"""A weight update in factored form."""

from dataclasses import dataclass, replace
from typing import final

from jaxtyping import Float

from loricate.basics.arrays import Array, namespace, upcast
from loricate.basics.errors import ShapeError

__all__ = ["LowRank"]


@final
@dataclass(frozen=True, eq=False)
class LowRank:
    """The matrix ``scale * B @ A``, kept as its factors.

    No method but ``dense`` forms the product. Norms and gauges are computed in float32 or wider;
    arrays come back in the dtype, namespace and device of the factors.

    Args:
        A: Right factor, (rank, d_in).
        B: Left factor, (d_out, rank).
        scale: Factor in front of the product, ``alpha / rank`` in LoRA's words.
    """

    A: Float[Array, "rank d_in"]
    B: Float[Array, "d_out rank"]
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.A.ndim == self.B.ndim == 2 and self.A.shape[0] == self.B.shape[1]:
            return
        a, b = tuple(self.A.shape), tuple(self.B.shape)
        swapped = self.A.ndim == self.B.ndim == 2 and a[1] == b[0]
        raise ShapeError(
            "factors A (rank, d_in) and B (d_out, rank)",
            (a, b),
            hint="A and B look swapped" if swapped else None,
        )

    @property
    def rank(self) -> int:
        """Number of columns of ``B``; the rank of the product may be less."""
        return int(self.A.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the dense form."""
        return int(self.B.shape[0]), int(self.A.shape[1])

    def dense(self) -> Float[Array, "d_out d_in"]:
        """The product itself, rounded to the dtype of the factors once, at the end."""
        product = self.scale * (upcast(self.B) @ upcast(self.A))
        return namespace(self.B).astype(product, self.B.dtype)

    def singular_values(self) -> Float[Array, " k"]:
        """Singular values of the dense form that may differ from 0, in descending order.

        There are ``min(rank, d_out, d_in)`` of them, in float32 or wider.

        Source: QR of both factors leaves a small core with the same singular values, Golub &
        Van Loan 2013 [golub2013], section 5.2.
        """
        xp = namespace(self.B)
        _, r_b = xp.linalg.qr(upcast(self.B))
        _, r_a = xp.linalg.qr(upcast(self.A).T)
        return abs(self.scale) * xp.linalg.svdvals(r_b @ r_a.T)

    def frobenius_norm(self) -> float:
        """Root of the sum of squared entries of the dense form."""
        s = self.singular_values()
        return float(namespace(s).linalg.vector_norm(s))

    def spectral_norm(self) -> float:
        """Largest singular value of the dense form."""
        return float(max(self.singular_values(), default=0.0))

    def nuclear_norm(self) -> float:
        """Sum of the singular values of the dense form."""
        s = self.singular_values()
        return float(namespace(s).sum(s))

    def scaled(self, gain: float) -> "LowRank":
        """The same factors, ``gain`` times the update."""
        return replace(self, scale=gain * self.scale)

    def baked(self) -> "LowRank":
        """The same update with ``scale == 1``; ``B`` carries the scale."""
        if self.scale == 1.0:
            return self
        product = self.scale * upcast(self.B)
        scaled = namespace(product).astype(product, self.B.dtype, copy=False)
        return LowRank(self.A, scaled)

    def regauged(self, gauge: Float[Array, "rank rank"]) -> "LowRank":
        """The same update through other factors, ``B @ gauge`` and ``inverse(gauge) @ A``.

        Args:
            gauge: Any invertible matrix.
        """
        xp = namespace(self.B)
        matrix = upcast(gauge)
        return LowRank(
            xp.astype(xp.linalg.solve(matrix, upcast(self.A)), self.A.dtype),
            xp.astype(upcast(self.B) @ matrix, self.B.dtype),
            self.scale,
        )

    def cast(self, like: Array) -> "LowRank":
        """The same factors, rounded to the dtype of another array of the same library."""
        xp = namespace(like)
        a, b = (xp.astype(factor, like.dtype, copy=False) for factor in (self.A, self.B))
        return replace(self, A=a, B=b)
