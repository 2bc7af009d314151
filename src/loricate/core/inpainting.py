"""Masks: what an edit may repaint, and what it keeps."""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from loricate.basics.errors import NumericalError, ShapeError

__all__ = ["Masks", "around_the_middle", "require_masks", "standard_masks"]

Masks = Float[Tensor, "n 1 height width"]
"""1 where an edit repaints, 0 where it keeps the picture."""

_KEPT: Final = 0.5  # side of the middle that is kept, over that of the picture


def around_the_middle(n: int, side: int) -> Masks:
    """Masks that keep a square of half the side in the middle, as portraits are edited.

    Args:
        n: How many.
        side: Height and width of the pictures.

    Returns:
        Equal masks, one a picture.
    """
    margin = round(side * (1 - _KEPT) / 2)
    mask = torch.ones(1, 1, side, side)
    mask[..., margin : side - margin, margin : side - margin] = 0
    return mask.expand(n, 1, side, side)


def standard_masks(side: int) -> Masks:
    """Masks to average over: around the middle, and each half of the picture.

    Args:
        side: Height and width of the pictures.

    Returns:
        Five different masks.
    """
    rows = (torch.arange(side) < side // 2).float()
    upper, left = (half.expand(side, side) for half in (rows[:, None], rows[None, :]))
    halves = torch.stack([upper, 1 - upper, left, 1 - left])[:, None]
    return torch.cat([around_the_middle(1, side), halves])


def require_masks(masks: Tensor, like: Tensor | None = None) -> None:
    """Refuse what is no mask, or not one of these pictures.

    Args:
        masks: Candidates.
        like: Pictures they belong to; without them, only the form is looked at.

    Raises:
        ShapeError: Not (n, 1, height, width), or of another size than the pictures.
        NumericalError: Values other than 0 and 1.
    """
    if masks.ndim != 4 or masks.shape[1] != 1 or masks.shape[0] == 0:
        hint = "a mask has one channel; add the batch dimension"
        raise ShapeError("masks (n, 1, height, width)", tuple(masks.shape), hint=hint)
    if not bool(((masks == 0) | (masks == 1)).all()):
        got = f"values in [{float(masks.min()):.4g}, {float(masks.max()):.4g}]"
        hint = "threshold the mask; 1 repaints, 0 keeps"
        raise NumericalError(f"a mask holds 0 and 1 alone, got {got}", hint=hint)
    if like is not None and masks.shape[2:] != like.shape[2:]:
        expected = f"masks of the pictures' size {tuple(like.shape[2:])}"
        hint = "resize the masks with nearest neighbors"
        raise ShapeError(expected, tuple(masks.shape[2:]), where="masks", hint=hint)
