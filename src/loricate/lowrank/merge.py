"""Sums of updates, and updates written into weights."""

from collections.abc import Sequence

from jaxtyping import Float

from loricate.basics.arrays import Array, namespace, require_finite, upcast
from loricate.basics.errors import ShapeError
from loricate.lowrank.factors import LowRank
from loricate.lowrank.rules import RankRule
from loricate.lowrank.svd import recompress

__all__ = ["add", "average", "concat", "merge", "subtract", "unmerge"]


def concat(updates: Sequence[LowRank], gains: Sequence[float] | None = None) -> LowRank:
    """Weighted sum of updates by stacking their factors; exact, without cross terms.

    Args:
        updates: One update or several, of one shape.
        gains: Factor of each; ``None`` means 1 for all.

    Returns:
        Factors with ``scale == 1``, whose rank is the sum of the ranks.

    Raises:
        ShapeError: No update, updates of different shapes, or not one gain for each.
    """
    weights = [1.0] * len(updates) if gains is None else gains
    if not updates or len(weights) != len(updates):
        raise ShapeError("at least one update and one gain for each", (len(updates), len(weights)))
    if len(shapes := {update.shape for update in updates}) > 1:
        raise ShapeError("updates of one shape", sorted(shapes))
    baked = [u.scaled(gain).baked() for u, gain in zip(updates, weights, strict=True)]
    xp = namespace(*(u.B for u in baked))
    return LowRank(xp.concat([u.A for u in baked], axis=0), xp.concat([u.B for u in baked], axis=1))


def add(a: LowRank, b: LowRank, rule: RankRule | None = None) -> LowRank:
    """Sum of two updates, recompressed.

    Args:
        a: First update.
        b: Second update.
        rule: Rank of the sum; ``None`` keeps its numerical rank, so loses only rounding.

    Raises:
        ShapeError: The shapes differ.
    """
    return recompress(concat([a, b]), rule)


def subtract(a: LowRank, b: LowRank, rule: RankRule | None = None) -> LowRank:
    """Difference of two updates, recompressed.

    Args:
        a: Update to subtract from.
        b: Update to subtract.
        rule: Rank of the difference; ``None`` keeps its numerical rank.

    Raises:
        ShapeError: The shapes differ.
    """
    return recompress(concat([a, b], [1.0, -1.0]), rule)


def average(updates: Sequence[LowRank], rule: RankRule | None = None) -> LowRank:
    """Mean of updates (not of their factors, which would add cross terms), recompressed.

    Args:
        updates: One update or several, of one shape.
        rule: Rank of the mean; ``None`` keeps its numerical rank.

    Raises:
        ShapeError: No update, or updates of different shapes.
    """
    return recompress(concat(updates, [1.0 / max(1, len(updates))] * len(updates)), rule)


def merge(
    weight: Float[Array, "d_out d_in"], update: LowRank, gain: float = 1.0
) -> Float[Array, "d_out d_in"]:
    """Weight with an update written into it.

    The sum is taken in float32 or wider and rounded once to the dtype of ``weight``.

    Args:
        weight: Dense matrix.
        update: Update of the same shape.
        gain: Factor in front of the update.

    Raises:
        ShapeError: The shapes differ.
        NumericalError: The result is not finite.
    """
    if tuple(weight.shape) != update.shape:
        swapped = tuple(weight.shape) == update.shape[::-1]
        hint = "the weight looks transposed" if swapped else None
        raise ShapeError(f"a weight of shape {update.shape}", tuple(weight.shape), hint=hint)
    product = upcast(update.B) @ upcast(update.A)
    merged = upcast(weight) + (gain * update.scale) * product
    return require_finite(namespace(weight).astype(merged, weight.dtype), where="merged weight")


def unmerge(
    weight: Float[Array, "d_out d_in"], update: LowRank, gain: float = 1.0
) -> Float[Array, "d_out d_in"]:
    """Weight with a merged update taken out again.

    Off the original by at most unit roundoff * (|merged| + |result|), entry by entry, in any
    dtype: one rounding on the way in and one on the way out.

    Args:
        weight: Dense matrix that holds the update.
        update: Update of the same shape.
        gain: Factor it was merged with.

    Raises:
        ShapeError: The shapes differ.
        NumericalError: The result is not finite.
    """
    return merge(weight, update, -gain)
