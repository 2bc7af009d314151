"""Which family of Stable Diffusion an adapter is for, as its modules and widths show."""

from collections.abc import Mapping

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter

__all__ = ["family_of"]

# What cross attention reads, and the width of the first text encoder.
_CONTEXT_WIDTHS: Mapping[int, set[sgm.Family]] = {
    768: {"sd1"},
    1024: {"sd2"},
    1280: {"refiner"},
    2048: {"sdxl"},
}
_TEXT_WIDTHS: Mapping[int, set[sgm.Family]] = {768: {"sd1", "sdxl"}, 1024: {"sd2"}}


def family_of(adapter: Adapter) -> sgm.Family | None:
    """Family whose modules and widths an adapter has, if only one has them."""
    fits: set[sgm.Family] = {
        family
        for family in sgm.FAMILIES
        if all(module in sgm.modules(component, family) for component, module in adapter)
    }
    for (component, module), update in adapter.items():
        width = update.weight_shape[1]
        if module.endswith((".attn2.to_k", ".attn2.to_v")):
            fits &= _CONTEXT_WIDTHS.get(width, fits)
        elif component == "text_encoder" and module.endswith("_proj"):
            fits &= _TEXT_WIDTHS.get(width, fits)
    return fits.pop() if len(fits) == 1 else None
