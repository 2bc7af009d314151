"""Factors as files keep them: scale in ``B``, finite, of a rank that exists."""

from collections.abc import Iterator

from jaxtyping import Float

from loricate.adapters.adapter import Adapter, Target
from loricate.basics.arrays import Array, require_finite
from loricate.basics.errors import UnsupportedError

__all__ = ["baked_pairs"]


def baked_pairs(
    adapter: Adapter, by: str
) -> Iterator[tuple[Target, tuple[Float[Array, "..."], Float[Array, "..."]]]]:
    """Factors A and B of each update as layers keep them, at scale 1.

    Args:
        adapter: What is written.
        by: Who writes, for errors.

    Raises:
        UnsupportedError: The adapter is empty, or an update has rank 0.
        NumericalError: A factor holds NaN or infinity, or does when the scale is in it.
    """
    if not adapter:
        raise UnsupportedError("an adapter without updates", by=by)
    for target, update in adapter.items():
        if update.rank == 0:
            hint = "leave the module out, as it is not updated"
            raise UnsupportedError(f"rank 0 at {str(target)!r}", by=by, hint=hint)
        a, b = (require_finite(factor, where=str(target)) for factor in update.pair())
        yield target, (a, b)
