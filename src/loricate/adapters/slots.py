"""Where the weight of a module lies in the files of a model, whatever their naming."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from loricate.adapters import sgm
from loricate.adapters.names import spellings
from loricate.adapters.weights import StoredArray, Weights
from loricate.basics.errors import ConfigError, ConfigProblem, nearest

__all__ = ["Slot", "find_slot", "slots_of", "without_ones"]

_WEIGHT = ".weight"
_FUSED = ".in_proj_weight"
_FUSED_PARTS = ("q_proj", "k_proj", "v_proj")

# open_clip multiplies with it from the right, so keeps it transposed and without a suffix.
_TRANSPOSED = "text_projection"


class Slot(NamedTuple):
    """Where the weight of one module lies.

    Args:
        name: Name of the stored tensor.
        third: Which third of its rows, where the weights of three modules are fused.
        transposed: Whether the tensor holds the transposed weight.
    """

    name: str
    third: int | None = None
    transposed: bool = False

    def of(self, weights: Weights) -> StoredArray:
        """The weight itself, as the module has it."""
        stored, start = weights[self.name], self.start(weights)
        rows = stored if self.third is None else stored[start : start + len(stored) // 3]
        return rows.T if self.transposed else rows

    def start(self, weights: Weights) -> int:
        """First row of the stored tensor that belongs to the module."""
        return 0 if self.third is None else self.third * (weights.shape(self.name)[0] // 3)

    def shape(self, weights: Weights) -> tuple[int, ...]:
        """Shape of the weight, as the module has it."""
        if not (shape := weights.shape(self.name)):
            return ()  # such as the temperature of CLIP
        n_rows, *rest = shape
        rows = n_rows if self.third is None else n_rows // 3
        return (*rest, rows) if self.transposed else (rows, *rest)


def slots_of(component: str, weights: Weights) -> dict[str, Slot]:
    """Slot of every module of a component, by its name in diffusers and by its name in the file.

    Args:
        component: What the weights belong to; decides how names of single files are read.
        weights: Weights of the component, without the prefix of a single file.
    """
    slots = {module: slot for name in weights for module, slot in _modules(name)}
    renamed = {sgm.to_diffusers(component, module): slot for module, slot in slots.items()}
    return slots | {module: slot for module, slot in renamed.items() if module is not None}


def find_slot(slots: Mapping[str, Slot], module: str) -> Slot:
    """Slot of a module under any of its spellings.

    Raises:
        ConfigError: There is no such module.
    """
    for spelling in spellings(module):
        if spelling in slots:
            return slots[spelling]
    close = nearest(module, slots)
    expected = "a module of the base"
    raise ConfigError(ConfigProblem(key="adapter", expected=expected, got=module, nearest=close))


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without the axes of a 1x1 convolution.

    The same layer is a Linear in one version of a model and a 1x1 convolution in another.
    """
    return shape[:2] if set(shape[2:]) == {1} else shape


def _modules(name: str) -> Iterator[tuple[str, Slot]]:
    if name.endswith(_WEIGHT):
        yield name.removesuffix(_WEIGHT), Slot(name)
    elif name.endswith(_FUSED):
        block = name.removesuffix(_FUSED)
        for third, part in enumerate(_FUSED_PARTS):
            yield f"{block}.{part}", Slot(name, third)
    elif name == _TRANSPOSED:
        yield name, Slot(name, transposed=True)
