"""What modules a base has, to resolve the names of an adapter and to refuse a wrong base."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.names import canonical
from loricate.adapters.slots import slots_of, without_ones
from loricate.adapters.weights import open_model
from loricate.basics.errors import ConfigError, ConfigProblem, ShapeError, nearest

__all__ = ["Shapes", "fitted", "shapes_of_base"]

_COMPONENTS = {*sgm.COMPONENTS, "transformer", "text_encoder_3"}

Shapes: TypeAlias = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Shape of the weight of each module, by component."""


def shapes_of_base(base: Path, components: Collection[str]) -> Shapes:
    """Modules of a base under canonical names, read from headers alone.

    Args:
        base: Diffusers folder, folder of one component, or safetensors file.
        components: What an adapter updates. If it is one, a lone part that does not say what it
            is, such as a VAE file, is taken for it.
    """
    parts = open_model(base)
    if len(parts) == len(components) == 1 and not parts.keys() & _COMPONENTS:
        parts = dict(zip(components, parts.values(), strict=True))
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    for component, weights in parts.items():
        for module, slot in slots_of(component, weights).items():
            name = canonical(component, sgm.to_diffusers(component, module) or module)
            shapes.setdefault(component, {})[name] = slot.shape(weights)
    return shapes


def fitted(adapter: Adapter, base: Path) -> Adapter:
    """The adapter with its updates in the shape of the base's weights.

    A layer may be a 1x1 convolution in one version of a model and linear in another.

    Args:
        adapter: Updates under canonical names.
        base: Diffusers folder, folder of one component, or safetensors file.

    Raises:
        ConfigError: The base lacks a component or a module.
        ShapeError: A weight has another shape.
    """
    shapes = shapes_of_base(base, adapter.components)
    return replace(adapter, updates={t: _fit(t, u, shapes, base) for t, u in adapter.items()})


def _fit(target: Target, update: Update, shapes: Shapes, base: Path) -> Update:
    component, module = target
    modules = shapes.get(component)
    if modules is None:
        expected = f"one of {', '.join(sorted(shapes))}, as in the base"
        problem = ConfigProblem(key="component", expected=expected, got=component)
        raise ConfigError(problem, file=base)
    if module not in modules:
        close = nearest(module, modules)
        problem = ConfigProblem(
            key=component, expected="a module of the base", got=module, nearest=close
        )
        raise ConfigError(problem, file=base)
    shape = modules[module]
    if without_ones(shape) == without_ones(update.weight_shape):
        kernel = (shape[1], shape[2], shape[3]) if len(shape) == 4 else None
        return replace(update, kernel=kernel)
    got = update.weight_shape
    is_grouped = len(got) == len(shape) == 4 and got[1] > shape[1] and got[1] % shape[1] == 0
    hint = "a grouped convolution takes no low-rank update" if is_grouped else "is this its base?"
    raise ShapeError(f"shape {shape}, as in the base", got, where=str(target), hint=hint)
