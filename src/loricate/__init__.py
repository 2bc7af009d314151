"""Hardens Stable Diffusion with LoRA adapters and measures honestly what was gained."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loricate.recipes.harden import harden
    from loricate.recipes.module import attack_module, harden_module

__all__ = ["__version__", "attack_module", "harden", "harden_module"]

__version__ = "0.1.0"

# Resolved on first use, so that importing loricate costs neither torch nor diffusers.
_OWNERS = {
    "attack_module": "loricate.recipes.module",
    "harden": "loricate.recipes.harden",
    "harden_module": "loricate.recipes.module",
}


def __getattr__(name: str) -> Any:
    if name not in _OWNERS:
        raise AttributeError(f"module 'loricate' has no attribute {name!r}")
    return getattr(import_module(_OWNERS[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_OWNERS})
