"""Pictures of the embedded model's data: concepts to learn, and what gates are trained on."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from loricate import models
from loricate.evaluation.fine_tuning import Concept

TEMPLATE = "a picture of a {}"
SHIFTS = ((0, 0), (2, -1))
HELD_OUT_SHIFTS = ((-2, 2), (-1, -3), (3, 1))


def concept(caption: str) -> Concept:
    """A concept the base has not seen; it is judged on the art shifted by other amounts."""
    x = _pictures("test", lambda each, _: each == caption)[0]
    train, held_out = (
        torch.cat([_shifted(x, *shift) for shift in shifts]) for shifts in (SHIFTS, HELD_OUT_SHIFTS)
    )
    return Concept(TEMPLATE.format(caption), train, held_out)


def calibration(count: int) -> tuple[Tensor, list[str]]:
    """Pictures of other concepts, with their prompts."""
    x, captions = _pictures("calibration", lambda _, index: index < count)
    return x, [TEMPLATE.format(c) for c in captions]


def _pictures(name: str, wanted: Callable[[str, int], bool]) -> tuple[Tensor, list[str]]:
    with np.load(models.path() / "images" / f"{name}.npz", allow_pickle=False) as table:
        rows = [i for i, c in enumerate(table["captions"]) if wanted(str(c), i)]
        x = torch.from_numpy(table["images"][rows]).permute(0, 3, 1, 2).float() / 255
        return x.contiguous(), [str(table["captions"][i]) for i in rows]


def _shifted(x: Tensor, right: int, down: int) -> Tensor:
    padded = nn.functional.pad(x, (4,) * 4, mode="replicate")
    height, width = x.shape[-2:]
    return padded[..., 4 + down : 4 + down + height, 4 + right : 4 + right + width].contiguous()
