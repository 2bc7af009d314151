"""Adapter files of any form, recognized by what is in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, final

from loricate.adapters.adapter import Adapter
from loricate.adapters.formats.peft import PEFT
from loricate.basics.errors import ConfigError, ConfigProblem

__all__ = ["FORMS", "AdapterFile", "ScaleSource", "open_adapter", "save_adapter"]

FORMS = ("peft",)
"""Forms that ``save_adapter`` writes."""

ScaleSource: TypeAlias = Literal["tensor", "config", "header", "absent"]


@final
@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What a path turned out to be.

    Args:
        path: The file or folder.
        form: The form found, such as ``peft``.
        adapter: The updates, under canonical names.
        scale_source: Where the scale was stated.
        notes: Oddities that were resolved, in words.
    """

    path: Path
    form: str
    adapter: Adapter
    scale_source: ScaleSource
    notes: tuple[str, ...] = ()


def open_adapter(
    path: Path, *, component: str | None = None, base: Path | None = None
) -> AdapterFile:
    """Read an adapter, whatever form it is in.

    Args:
        path: File or folder.
        component: Component it is for, where the form does not say.
        base: Model whose module names resolve ambiguous ones.
    """
    adapter = PEFT(component=component).read(path)
    return AdapterFile(path=path, form="peft", adapter=adapter, scale_source="config")


def save_adapter(adapter: Adapter, path: Path, *, form: str) -> None:
    """Keep an adapter in a form.

    Args:
        adapter: What to write.
        path: File or folder.
        form: One of ``FORMS``.

    Raises:
        ConfigError: There is no such form.
    """
    if form not in FORMS:
        raise ConfigError(ConfigProblem(key="form", expected=f"one of {FORMS}", got=form))
    PEFT().write(adapter, path)
