"""Module names whose dots became underscores, and the way back."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

from loricate.adapters import sgm
from loricate.adapters.adapter import Target
from loricate.adapters.names import without_tower
from loricate.basics.errors import ConfigError, ConfigProblem, nearest

__all__ = ["GENERIC", "PREFIXES", "is_kohya", "resolve", "underscored"]

PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
"""What stands in front of the modules of each component."""

GENERIC = {
    "diffusion_model.": "unet",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}
"""What stands in front of dotted names of ComfyUI."""

_UNBOUND = "lycoris_"
"""What LyCORIS puts in front of every module when it wraps a lone model."""

_LISTED = 8

Modules: TypeAlias = Mapping[str, Iterable[str]]


def is_kohya(keys: Iterable[str]) -> bool:
    """Whether names of tensors are those of kohya, LyCORIS or ComfyUI.

    Args:
        keys: Names of all tensors of a file.
    """
    return any(key.startswith(("lora_", _UNBOUND, *GENERIC)) for key in keys)


def underscored(module: str) -> str:
    """The name in a kohya file, which cannot be undone without a list of names."""
    return module.replace(".", "_")


def resolve(
    names: Iterable[str], file: Path, *, component: str | None, base: Modules | None
) -> dict[str, Target]:
    """What the modules of a kohya file are called in diffusers.

    Args:
        names: Modules as the file spells them, with prefix.
        file: The file, for errors.
        component: Component of names that do not say it.
        base: Modules of each component of the base; ``None`` takes all of Stable Diffusion.

    Raises:
        ConfigError: A name is not that of a module, or two prefixes mean one component.
    """
    names = list(names)
    _refuse_two_prefixes(names, file)
    targets: dict[str, Target] = {}
    problems: list[ConfigProblem] = []
    for name in names:
        prefix = next(filter(name.startswith, (*PREFIXES, _UNBOUND)), None)
        owner = component if prefix == _UNBOUND else PREFIXES.get(prefix or "")
        if prefix is None or owner is None:
            known = ", ".join(PREFIXES)
            what = "component" if prefix else "key"
            expected = "what this lone model is" if prefix else f"a name after one of {known}"
            raise ConfigError(ConfigProblem(key=what, expected=expected, got=name), file=file)
        table = _known(owner) if base is None else _of_base(owner, base)
        module = table.get(name.removeprefix(prefix))
        if module is None:
            close = None
            if len(problems) < _LISTED:
                close = nearest(name.removeprefix(prefix), table)
            problems.append(_unknown(name, owner, prefix, close, has_base=base is not None))
        else:
            targets[name] = Target(owner, module)
    if problems:
        raise ConfigError(_shortened(problems), file=file)
    return targets


@cache
def _known(component: str) -> Mapping[str, str]:
    """Names in diffusers by the names of any family with underscores, in both spellings."""
    table: dict[str, str] = {}
    for family in sgm.FAMILIES:
        for module, in_file in sgm.modules(component, family).items():
            table |= {underscored(alias): module for alias in (in_file, *_aliases(module))}
    return table


def _of_base(component: str, base: Modules) -> Mapping[str, str]:
    present = set(base.get(component, ()))
    table = {alias: name for alias, name in _known(component).items() if name in present}
    return table | {underscored(alias): name for name in present for alias in _aliases(name)}


def _aliases(module: str) -> tuple[str, ...]:
    short = without_tower(module)
    return (module,) if short is None else (module, short)


def _refuse_two_prefixes(names: Iterable[str], file: Path) -> None:
    first = {
        prefix: n for prefix in ("lora_te_", "lora_te1_") for n in names if n.startswith(prefix)
    }
    if len(first) == 2:
        expected = "lora_te_ or lora_te1_, which both mean the first text encoder"
        got = f"{first['lora_te_']!r} and {first['lora_te1_']!r} (KEY_SHADOW)"
        raise ConfigError(ConfigProblem(key="text_encoder", expected=expected, got=got), file=file)


def _unknown(
    name: str, component: str, prefix: str, close: str | None, *, has_base: bool
) -> ConfigProblem:
    whose = "of the base" if has_base else "of Stable Diffusion (give its base for another model)"
    return ConfigProblem(
        key=component,
        expected=f"a module {whose}",
        got=name,
        nearest=None if close is None else prefix + close,
    )


def _shortened(problems: list[ConfigProblem]) -> list[ConfigProblem]:
    if len(problems) <= _LISTED:
        return problems
    rest = ConfigProblem(
        key="", expected="the same of all names", got=f"{len(problems) - _LISTED} more unknown ones"
    )
    return [*problems[:_LISTED], rest]
