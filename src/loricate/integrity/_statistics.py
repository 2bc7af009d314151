"""What is unusual among modules of one family."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from loricate.adapters.adapter import Target
from loricate.adapters.kinds import kind_of

__all__ = ["families_of", "robust_z"]

# Makes the median absolute deviation of normal numbers their standard deviation.
_CONSISTENCY = 1.4826


def families_of(
    targets: Sequence[Target], least: int
) -> tuple[Mapping[str, list[int]], tuple[Target, ...]]:
    """Modules that do the same, so that their updates can be compared.

    Modules with one name but for the numbers in it are a family, such as all ``attn2.to_k`` of a
    UNet; where they are too few, they join the others of their kind, such as cross-attention.

    Args:
        targets: All modules.
        least: Members a family has to have.

    Returns:
        Positions of the members of each family, and modules that have none.
    """
    families, alone = _grouped(targets, range(len(targets)), _role, least)
    pooled, lone = _grouped(targets, alone, _kind, least)
    return families | pooled, tuple(targets[i] for i in lone)


def robust_z(values: Float[np.ndarray, " n"], least_spread: float) -> Float[np.ndarray, " n"]:
    """Distance from the median in robust standard deviations.

    Args:
        values: Finite numbers.
        least_spread: Standard deviation that is assumed at least, in units of the values; without
            it, equal numbers would make anything an outlier.

    Source: Median and its absolute deviation as in Iglewicz & Hoaglin 1993, section 3.
    """
    if values.size == 0:
        return values
    centered: NDArray[np.float64] = values - np.median(values)
    spread = _CONSISTENCY * float(np.median(np.abs(centered)))
    return centered / max(spread, least_spread)


def _grouped(
    targets: Sequence[Target], members: Sequence[int], name: Callable[[Target], str], least: int
) -> tuple[dict[str, list[int]], list[int]]:
    groups: dict[str, list[int]] = {}
    for i in members:
        groups.setdefault(name(targets[i]), []).append(i)
    kept = {key: group for key, group in groups.items() if len(group) >= least}
    rest = [i for key, group in groups.items() if key not in kept for i in group]
    return kept, sorted(rest)


def _role(target: Target) -> str:
    words = [part for part in target.module.split(".") if not part.isdigit()]
    return f"{target.component} {'.'.join(words[-2:])}"


def _kind(target: Target) -> str:
    return f"{target.component} {kind_of(target.module)}"
