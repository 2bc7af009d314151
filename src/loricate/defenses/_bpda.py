"""Backward passes for transforms that have no useful gradient of their own."""

from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["substitute"]


def substitute(real: Tensor, surrogate: Tensor) -> Tensor:
    """``real`` going forward, the gradient of ``surrogate`` going back.

    Args:
        real: The exact output, to the last bit.
        surrogate: A differentiable stand-in of the same shape.

    Returns:
        ``real``, attached to the graph of ``surrogate``.

    Source: Athalye et al. 2018 [athalye2018], section 4.1.
    """
    return cast(Tensor, _Substitute.apply(real, surrogate))  # type: ignore[no-untyped-call]


class _Substitute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, real: Tensor, surrogate: Tensor) -> Tensor:
        return real.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]
