"""Torch generators that belong to addresses."""

from collections.abc import Sequence

import torch

from loricate.basics.seeds import derive_seed

__all__ = ["Seeds", "generators", "sample_seeds"]

Seeds = Sequence[int]
"""One seed a sample."""


def sample_seeds(root: int, samples: Sequence[int], *address: int | str) -> list[int]:
    """A seed for each sample, independent of which others share its batch.

    Args:
        root: Seed of the run.
        samples: Global indices of the samples.
        address: What the randomness is for.

    Returns:
        Seeds in the order of ``samples``.
    """
    return [derive_seed(root, *address, sample) for sample in samples]


def generators(seeds: Seeds, *address: int | str) -> list[torch.Generator]:
    """CPU generators below per-sample seeds.

    Args:
        seeds: One a sample.
        address: What the randomness is for.

    Returns:
        Fresh generators in the same order.
    """
    return [torch.Generator().manual_seed(derive_seed(seed, *address)) for seed in seeds]
