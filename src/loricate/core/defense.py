"""Contracts of what protects: adapters, preprocessing, regularizers."""

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from loricate.basics.spec import Spec, Weight
from loricate.core.family import Family
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch

__all__ = ["InputDefense", "Regularizer"]


@dataclass(frozen=True, kw_only=True)
class InputDefense(Spec):
    """Preprocessing of pixels, with a declared backward pass.

    The forward pass is the real transform; where that has no useful gradient, ``__call__``
    substitutes a differentiable one for the backward pass (BPDA) and the docstring names it.

    Source: Athalye et al. 2018 [athalye2018], section 4.
    """

    registry_kind = "defenses"

    @property
    def bpda(self) -> str:
        """The declared backward pass: ``"none"`` where the transform's own gradient is used."""
        return "none"

    @property
    def is_random(self) -> bool:
        """Whether the transform depends on the seeds."""
        return False

    def bind(self, family: Family) -> "InputDefense":
        """The defense as deployed in front of a model; itself where it needs none.

        Args:
            family: The deployed model, its adapter included.
        """
        return self

    @abstractmethod
    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Preprocessed pixels.

        Args:
            x: Pixels in [0, 1].
            seeds: One a sample; ignored where nothing is random.

        Returns:
            Pixels in [0, 1] of the same shape.
        """


@dataclass(frozen=True, kw_only=True)
class Regularizer(Spec):
    """A penalty on the weight updates of an adapter under training.

    Args:
        weight: Factor in the training loss.
    """

    registry_kind = "defenses"

    weight: Weight = 1.0

    @abstractmethod
    def penalty(self, base: dict[str, Tensor], updates: dict[str, Tensor]) -> Tensor:
        """Scalar penalty, zero at its optimum and before the factor ``weight``.

        Args:
            base: Frozen weights by module path, (out, in) matrices.
            updates: Their current updates, of the same shapes.

        Returns:
            A scalar with gradient.
        """
