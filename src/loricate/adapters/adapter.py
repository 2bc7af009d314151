"""The one in-memory form of a LoRA adapter."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple, final

from jaxtyping import Float

from loricate.basics.arrays import Array
from loricate.basics.errors import ConfigError, ConfigProblem, ShapeError
from loricate.lowrank import conv
from loricate.lowrank.factors import LowRank

__all__ = ["Adapter", "Target", "Update"]

_MODULE = re.compile(r"\w+(\.\w+)*", re.ASCII)


class Target(NamedTuple):
    """Where an update attaches.

    Args:
        component: Part of the pipeline, such as ``vae`` or ``unet``; ``model`` for a lone module.
        module: Dotted path inside the component, such as ``encoder.conv_in``.
    """

    component: str
    module: str

    def __str__(self) -> str:
        return f"{self.component}/{self.module}"


@final
@dataclass(frozen=True, eq=False)
class Update:
    """Low-rank update of the weight of one Linear or Conv2d layer.

    Args:
        factors: Update of the weight as a matrix; kernels are flattened behind their first axis.
        kernel: Input channels, height and width if the layer is a convolution.
    """

    factors: LowRank
    kernel: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.kernel is not None:
            conv.as_kernel(self.factors.A, self.kernel)

    @classmethod
    def from_factors(cls, A: Array, B: Array, scale: float = 1.0) -> "Update":
        """Update from the two factors as layers keep them, matrices or convolution kernels.

        Args:
            A: Shape (rank, d_in), or (rank, c_in, kh, kw).
            B: Shape (d_out, rank), or (d_out, rank, 1, 1).
            scale: Factor in front of the product.

        Raises:
            ShapeError: The shapes do not belong together.
        """
        if A.ndim != B.ndim:
            raise ShapeError("two matrices or two kernels", (tuple(A.shape), tuple(B.shape)))
        if A.ndim != 4:
            return cls(LowRank(A, B, scale))
        _, c_in, height, width = map(int, A.shape)
        return cls(conv.from_pair(A, B).scaled(scale), (c_in, height, width))

    @property
    def kind(self) -> Literal["linear", "conv"]:
        """Kind of the layer."""
        return "linear" if self.kernel is None else "conv"

    @property
    def rank(self) -> int:
        """Rank of the factors."""
        return self.factors.rank

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight that is updated."""
        d_out, d_in = self.factors.shape
        return (d_out, d_in) if self.kernel is None else (d_out, *self.kernel)

    @property
    def n_parameters(self) -> int:
        """Number of entries of both factors."""
        return self.rank * sum(self.factors.shape)

    def dense(self) -> Float[Array, "..."]:
        """The change of the weight, in the shape of the weight."""
        matrix = self.factors.dense()
        return matrix if self.kernel is None else conv.as_kernel(matrix, self.kernel)

    def pair(self) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """The factors A and B as layers keep them, the scale folded into B."""
        if self.kernel is not None:
            return conv.as_pair(self.factors, self.kernel)
        baked = self.factors.baked()
        return baked.A, baked.B


@final
@dataclass(frozen=True, eq=False)
class Adapter(Mapping[Target, Update]):
    """Low-rank updates by target; an immutable mapping.

    Args:
        updates: Update of each target.
        metadata: Free text that travels with the adapter.
    """

    updates: Mapping[Target, Update]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        updates = {Target(*target): update for target, update in self.updates.items()}
        for target in updates:
            if not all(map(_MODULE.fullmatch, target)):
                raise ConfigError(
                    ConfigProblem(key="target", expected="dotted names", got=str(target))
                )
        object.__setattr__(self, "updates", MappingProxyType(updates))
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __getitem__(self, target: Target) -> Update:
        return self.updates[target]

    def __iter__(self) -> Iterator[Target]:
        return iter(self.updates)

    def __len__(self) -> int:
        return len(self.updates)

    @property
    def components(self) -> tuple[str, ...]:
        """Components that are updated, sorted."""
        return tuple(sorted({target.component for target in self.updates}))

    @property
    def ranks(self) -> Mapping[Target, int]:
        """Rank of each update."""
        return {target: update.rank for target, update in self.updates.items()}

    @property
    def n_parameters(self) -> int:
        """Number of entries of all factors."""
        return sum(update.n_parameters for update in self.updates.values())

    def only(self, components: Iterable[str]) -> "Adapter":
        """The part that updates some components."""
        kept = frozenset(components)
        updates = {t: update for t, update in self.updates.items() if t.component in kept}
        return Adapter(updates, self.metadata)

    def modules(self, component: str) -> dict[str, Update]:
        """Update of each module of one component."""
        return {t.module: update for t, update in self.updates.items() if t.component == component}

    def scaled(self, gain: float) -> "Adapter":
        """The same adapter, ``gain`` times every update."""
        updates = {
            target: Update(update.factors.scaled(gain), update.kernel)
            for target, update in self.updates.items()
        }
        return Adapter(updates, self.metadata)
