"""Fewer gray levels."""

from dataclasses import dataclass
from typing import Annotated, final

from loricate.basics.spec import Range
from loricate.core.defense import InputDefense
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.defenses._bpda import substitute

__all__ = ["BitDepth"]


@final
@dataclass(frozen=True, kw_only=True)
class BitDepth(InputDefense):
    """Round every pixel to the nearest of ``2**bits`` evenly spaced levels.

    Rounding has no gradient; backward it is the identity.

    Args:
        bits: Bits kept a channel, from 1 to 8.

    Source: the bit depth squeezer of Xu et al. 2018 [xu2018], section III-A.
    """

    bits: Annotated[int, Range("an integer from 1 to 8", int, 1, 8)] = 4

    @property
    def bpda(self) -> str:
        """The identity."""
        return "identity"

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Pictures of few levels."""
        steps = 2**self.bits - 1
        return substitute((x.detach() * steps).round() / steps, x)
