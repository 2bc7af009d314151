"""Digests of what a run starts from, so that a resumed one starts from the same."""

from typing import get_args

import torch

from loricate.core.family import Component, Family
from loricate.core.shapes import Images
from loricate.evaluation.subjects import Pictures
from loricate.integrity.digest import digest

__all__ = ["digests_of"]


def digests_of(
    family: Family, pictures: Pictures, calibration: Images | None = None
) -> dict[str, str]:
    """Digest of each part of a model and of the pictures, by what a user calls them.

    Args:
        family: The pipeline, nothing attached.
        pictures: Held-out pictures with their prompts.
        calibration: Pictures of the training, where there is one.
    """
    prompts = "\0".join(pictures.prompts).encode()
    held_out = {"images": pictures.images, "prompts": torch.tensor(list(prompts))}
    found = {part: digest(family.module(part).state_dict()) for part in get_args(Component)}
    found["held-out pictures"] = digest(held_out)
    if calibration is not None:
        found["calibration pictures"] = digest({"images": calibration})
    return found
