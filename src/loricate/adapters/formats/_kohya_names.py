"""Module names whose dots became underscores, and the way back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from loricate.adapters import sgm
from loricate.adapters._base import Shapes, shapes_of_base
from loricate.adapters.adapter import Target
from loricate.adapters.keys import COMFY_PREFIXES, KOHYA_PREFIXES
from loricate.adapters.names import without_tower
from loricate.basics.errors import ConfigError, ConfigProblem, nearest

__all__ = ["find", "is_kohya", "resolve", "underscored"]

_UNBOUND = "lycoris_"
"""What LyCORIS puts in front of every module when it wraps a lone model."""

_LISTED = 8
_COMPARED = 2
"""Names that get a suggestion, as looking for one takes a tenth of a second and more."""


def is_kohya(keys: Iterable[str]) -> bool:
    """Whether names of tensors are those of kohya, LyCORIS or ComfyUI.

    Args:
        keys: Names of all tensors of a file.
    """
    return any(key.startswith(("lora_", _UNBOUND, *COMFY_PREFIXES)) for key in keys)


def underscored(module: str) -> str:
    """The name in a kohya file, which cannot be undone without a list of names."""
    return module.replace(".", "_")


def find(name: str, component: str) -> Target | None:
    """What a module of a kohya file is called in any Stable Diffusion, ``None`` if it is foreign.

    Args:
        name: The module as the file spells it, with prefix.
        component: Component of a name that does not say it.
    """
    prefix = _prefix(name)
    if prefix is None:
        return None
    owner = KOHYA_PREFIXES.get(prefix, component)
    module = _known(owner).get(name.removeprefix(prefix))
    return None if module is None else Target(owner, module)


def resolve(
    names: Iterable[str], file: Path, *, component: str | None, base: Path | None
) -> dict[str, Target]:
    """What the modules of a kohya file are called in diffusers.

    Args:
        names: Modules as the file spells them, with prefix.
        file: The file, for errors.
        component: Component of names that do not say it.
        base: Model by whose modules names are resolved; ``None`` takes all of Stable Diffusion.

    Raises:
        ConfigError: A name is not that of a module, or two prefixes mean one component.
    """
    owners = {name: _owner(name, component, file) for name in names}
    _refuse_two_prefixes(owners, file)
    components = {owner for _, owner in owners.values()}
    shapes = None if base is None else shapes_of_base(base, components)
    tables = {owner: _table(owner, shapes) for owner in components}
    targets = {
        name: Target(owner, tables[owner][name.removeprefix(prefix)])
        for name, (prefix, owner) in owners.items()
        if name.removeprefix(prefix) in tables[owner]
    }
    if unknown := [name for name in owners if name not in targets]:
        whose = "of the base" if base else "of Stable Diffusion (name the base of another model)"
        raise ConfigError(list(_problems(unknown, owners, tables, whose)), file=file)
    return targets


def _owner(name: str, component: str | None, file: Path) -> tuple[str, str]:
    """Prefix and component of a name."""
    prefix = _prefix(name)
    if prefix in KOHYA_PREFIXES:
        return prefix, KOHYA_PREFIXES[prefix]
    if prefix is None:
        expected = f"a name after one of {', '.join(KOHYA_PREFIXES)}"
        raise ConfigError(ConfigProblem(key="key", expected=expected, got=name), file=file)
    if component is None:
        expected = "what this lone model is"
        raise ConfigError(ConfigProblem(key="component", expected=expected, got=name), file=file)
    return _UNBOUND, component


def _prefix(name: str) -> str | None:
    return next(filter(name.startswith, (*KOHYA_PREFIXES, _UNBOUND)), None)


def _table(component: str, base: Shapes | None) -> Mapping[str, str]:
    """Names in diffusers by names with underscores."""
    known = _known(component)
    # The base may be one component of the model, and the file for several.
    if base is None or component not in base:
        return known
    present = set(base[component])
    table = {alias: name for alias, name in known.items() if name in present}
    return table | {underscored(alias): name for name in present for alias in _aliases(name)}


@cache
def _known(component: str) -> Mapping[str, str]:
    """Names in diffusers by the names of any family with underscores, in both spellings."""
    table: dict[str, str] = {}
    for family in sgm.FAMILIES:
        for module, in_file in sgm.modules(component, family).items():
            table |= {underscored(alias): module for alias in (in_file, *_aliases(module))}
    return table


def _aliases(module: str) -> tuple[str, ...]:
    short = without_tower(module)
    return (module,) if short is None else (module, short)


def _refuse_two_prefixes(names: Iterable[str], file: Path) -> None:
    prefixes = ("lora_te_", "lora_te1_")
    first = [next((n for n in names if n.startswith(prefix)), None) for prefix in prefixes]
    if None not in first:
        expected = "lora_te_ or lora_te1_, which both mean the first text encoder"
        got = f"{first[0]!r} and {first[1]!r} (KEY_SHADOW)"
        raise ConfigError(ConfigProblem(key="text_encoder", expected=expected, got=got), file=file)


def _problems(
    unknown: Sequence[str],
    owners: Mapping[str, tuple[str, str]],
    tables: Mapping[str, Mapping[str, str]],
    whose: str,
) -> Iterator[ConfigProblem]:
    for index, name in enumerate(unknown[:_LISTED]):
        prefix, owner = owners[name]
        known = tables[owner] if index < _COMPARED else ()
        close = nearest(name.removeprefix(prefix), known)
        yield ConfigProblem(
            key=owner,
            expected=f"a module {whose}",
            got=name,
            nearest=None if close is None else prefix + close,
        )
    if more := unknown[_LISTED:]:
        got = f"{len(more)} more unknown ones"
        yield ConfigProblem(key="", expected="the same of all names", got=got)
