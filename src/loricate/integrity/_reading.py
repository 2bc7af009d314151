"""What rules read of a file; what cannot be read is raised, and thereby not verified."""

import math
from collections.abc import Collection

from loricate.adapters.adapter import Adapter, Target
from loricate.adapters.slots import without_ones
from loricate.adapters.tensors import TensorFile
from loricate.adapters.weights import StoredArray
from loricate.basics.errors import UnsupportedError
from loricate.integrity._base_model import Base
from loricate.integrity.features import Features
from loricate.integrity.subject import Subject

__all__ = ["adapter_of", "features_of", "fits", "norms_of", "owner_of", "tensors_of", "weights_of"]


def tensors_of(subject: Subject) -> TensorFile:
    """Tensors of a safetensors file.

    Raises:
        LoricateError: What the strict reader refuses.
    """
    if subject.tensors is None:
        raise subject.refusal or _unread("tensors")
    return subject.tensors


def adapter_of(subject: Subject) -> Adapter | None:
    """The updates in a file that can be judged, or ``None`` where the file is something else.

    Raises:
        LoricateError: Why none of an adapter can be read.
    """
    tensors_of(subject)
    readable = subject.readable
    if readable is not None and not readable.adapter:
        raise subject.adapter_refusal or _unread("an adapter")
    return None if readable is None else readable.adapter


def features_of(subject: Subject) -> Features | None:
    """Spectral features of an adapter, or ``None`` where the file is something else.

    Raises:
        LoricateError: Why an adapter cannot be read.
    """
    return None if adapter_of(subject) is None else subject.features


def norms_of(adapter: Adapter, base: Base) -> dict[Target, float]:
    """Frobenius norms of the weights that the updates fit and that have one above 0.

    Args:
        adapter: Updates, of a component that the base calls by another name or does not name.
        base: The base.
    """
    owners = _owners(adapter, base)
    norms = {
        target: base.norm(owners[target.component], target.module)
        for target in weights_of(adapter, base)
    }
    # Beside a weight of zeros everything is out of proportion, which says nothing.
    return {target: norm for target, norm in norms.items() if 0 < norm < math.inf}


def weights_of(adapter: Adapter, base: Base) -> dict[Target, StoredArray]:
    """Weights of the base that the updates fit, read when they are looked at.

    Args:
        adapter: Updates, of a component that the base calls by another name or does not name.
        base: The base.
    """
    owners = _owners(adapter, base)
    found = {}
    for target, update in adapter.items():
        weight = base.weight(owners[target.component], target.module)
        if weight is not None and weight.size > 0 and fits(weight.shape, update.weight_shape):
            found[target] = weight
    return found


def _owners(adapter: Adapter, base: Base) -> dict[str, str]:
    return {
        component: owner_of(component, adapter.modules(component), base)
        for component in adapter.components
    }


def owner_of(component: str, modules: Collection[str], base: Base) -> str:
    """What the base calls a component: the part that has most of its modules, if none is named so.

    Args:
        component: What the adapter calls it.
        modules: Canonical names of modules in it.
        base: The base.
    """
    if component in base.components or not base.components:
        return component
    return max(base.components, key=lambda part: len({*modules}.intersection(base.modules(part))))


def fits(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes are those of one weight; a 1x1 convolution may be linear elsewhere."""
    return without_ones(shape) == without_ones(other)


def _unread(what: str) -> UnsupportedError:
    return UnsupportedError(what, by="this rule")
