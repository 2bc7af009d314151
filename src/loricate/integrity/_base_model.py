"""The model an adapter is for, as checks of the adapter look at it."""

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import final

from loricate.adapters import sgm
from loricate.adapters.names import canonical
from loricate.adapters.slots import Slot, slots_of
from loricate.adapters.weights import StoredArray, Weights, open_model
from loricate.basics.errors import HostileFileError, PrerequisiteError
from loricate.integrity._base_spectrum import frobenius_norm
from loricate.integrity._keys import part_of
from loricate.integrity.digest import digest

__all__ = ["Base", "open_base"]


@final
class Base:
    """Weights of a model on disk by canonical names, read when asked for.

    Args:
        folder: Diffusers folder, folder of one component, or safetensors file.

    Raises:
        PrerequisiteError: There are no safetensors weights, or a file is malformed.
        ConfigError: A folder leaves open which file holds the weights.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = open_base(folder)
        self._digests: dict[str, str] = {}
        self._norms: dict[tuple[str, str], float] = {}

    @property
    def components(self) -> tuple[str, ...]:
        """Parts of the model, sorted."""
        return tuple(sorted(self._parts))

    def modules(self, component: str) -> tuple[str, ...]:
        """Modules with a weight under canonical names, none where there is no such part."""
        return tuple(self._slots.get(component, {}))

    def weight(self, component: str, module: str) -> StoredArray | None:
        """Weight of a module as the module has it, or ``None`` where there is no such module."""
        slot = self._slots.get(component, {}).get(module)
        return None if slot is None else slot.of(self._parts[component])

    def shape(self, component: str, module: str) -> tuple[int, ...] | None:
        """Shape of the weight of a module, or ``None`` where there is no such module."""
        slot = self._slots.get(component, {}).get(module)
        return None if slot is None else slot.shape(self._parts[component])

    def norm(self, component: str, module: str) -> float:
        """Frobenius norm of the weight of a module, NaN where there is no such module."""
        if (component, module) not in self._norms:
            weight = self.weight(component, module)
            self._norms[component, module] = math.nan if weight is None else frobenius_norm(weight)
        return self._norms[component, module]

    def digest(self, component: str) -> str | None:
        """Digest of all tensors of a part, or ``None`` where there is no such part."""
        if component not in self._parts:
            return None
        if component not in self._digests:
            self._digests[component] = digest(self._parts[component])
        return self._digests[component]

    @cached_property
    def _slots(self) -> Mapping[str, Mapping[str, Slot]]:
        return {part: _canonical_slots(part, weights) for part, weights in self._parts.items()}


def open_base(path: Path) -> dict[str, Weights]:
    """Weights of a model that others are held to, by component.

    Args:
        path: Diffusers folder, folder of one component, or safetensors file.

    Raises:
        PrerequisiteError: There are no safetensors weights, none but an adapter's, or a file is
            malformed. That is no verdict on what is held to it.
        ConfigError: A folder leaves open which file holds the weights.
    """
    try:
        parts = open_model(path)
    except HostileFileError as error:
        missing = f"a base that can be read ({error})"
        raise PrerequisiteError(missing, remedy="name another with --base, or scan it") from error
    if all(part_of(name) is not None for weights in parts.values() for name in weights):
        missing = f"a base with weights of its own in {str(path)!r}, which holds only updates"
        raise PrerequisiteError(missing, remedy="name the model that they are for with --base")
    return parts


def _canonical_slots(component: str, weights: Weights) -> dict[str, Slot]:
    return {
        canonical(component, sgm.to_diffusers(component, module) or module): slot
        for module, slot in slots_of(component, weights).items()
    }
