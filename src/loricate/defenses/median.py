"""Pictures of local medians."""

from dataclasses import dataclass
from typing import Annotated, Literal, final

from torch.nn.functional import pad

from loricate.basics.errors import ConfigProblem
from loricate.basics.spec import Range
from loricate.core.defense import InputDefense
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.defenses._bpda import substitute

__all__ = ["Median"]


@final
@dataclass(frozen=True, kw_only=True)
class Median(InputDefense):
    """Replace every pixel by the median of the square around it, channel by channel.

    Args:
        size: Side of the square in pixels, odd; pixels of the border are repeated outwards.
        bpda: The backward pass. ``"mean"`` is that of the mean over the same square,
            ``"subgradient"`` goes to the one pixel each output was copied from: the exact slope
            where no two pixels tie, but ranks change within a step of an attack.

    Source: the local smoothing squeezer of Xu et al. 2018 [xu2018], section III-B.
    """

    size: Annotated[int, Range("an odd integer from 3 to 15", int, 3, 15)] = 3
    bpda: Literal["mean", "subgradient"] = "mean"

    def inconsistencies(self) -> list[ConfigProblem]:
        """An even side has no middle."""
        if self.size % 2:
            return []
        return [ConfigProblem(key="size", expected="an odd integer from 3 to 15", got=self.size)]

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Pictures without lone pixels."""
        padded = pad(x, (self.size // 2,) * 4, mode="replicate")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        windows = windows.flatten(4)
        medians = windows.median(-1).values
        return substitute(medians.detach(), windows.mean(-1)) if self.bpda == "mean" else medians
