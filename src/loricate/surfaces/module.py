"""Any callable on image batches as a surface."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from torch import Tensor

from loricate.basics.errors import ShapeError
from loricate.core.domain import PIXELS, Domain
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch
from loricate.core.surface import Surface

__all__ = ["ModuleSurface"]


@final
@dataclass(frozen=True)
class ModuleSurface(Surface):
    """A deterministic map such as an encoder.

    Args:
        function: From inputs to one output row a sample; an ``nn.Module`` will do.
        domain: Where inputs live.
    """

    function: Callable[[Batch], object]
    domain: Domain = PIXELS

    def __call__(self, x: Batch, seeds: Seeds) -> Tensor:
        """Output of the function."""
        output = self.function(x)
        if not isinstance(output, Tensor) or output.shape[:1] != x.shape[:1]:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ShapeError(
                f"a tensor with {len(x)} rows from the module",
                got,
                hint="wrap it in a function that returns the tensor to protect",
            )
        return output
