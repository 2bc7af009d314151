"""Adapter files of any form, recognized by what is in them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from loricate.adapters._base import fitted
from loricate.adapters.adapter import Adapter
from loricate.adapters.format import AdapterFile, ScaleSource
from loricate.adapters.formats._kohya_names import is_kohya
from loricate.adapters.formats.diffusers import Diffusers
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.formats.peft import CONFIG, PEFT, WEIGHTS
from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    PrerequisiteError,
    UnsupportedError,
    nearest,
)

__all__ = ["FORMS", "AdapterFile", "ScaleSource", "open_adapter", "save_adapter"]

FORMS = ("peft", "diffusers", "kohya")
"""Forms that ``save_adapter`` writes."""

_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def open_adapter(
    path: Path, *, component: str | None = None, base: Path | None = None
) -> AdapterFile:
    """Read an adapter, whatever form it is in.

    Args:
        path: File or folder.
        component: Component that is meant: the one it is for, where the form does not say, or the
            only one to take of several.
        base: Model it is for. Names in which dots became underscores are resolved by its modules,
            and updates take the shape of its weights; without it, by the modules of Stable
            Diffusion.

    Returns:
        The adapter under canonical names, and what was found.

    Raises:
        PrerequisiteError: There is no safetensors file.
        ConfigError: A folder holds several, a name is unknown, two places state different scales,
            the component is not stated anywhere, or it is not among those that are.
        HostileFileError: A file is malformed.
        UnsupportedError: It holds something that is no plain LoRA.
        ShapeError: Factors do not belong together, or not to the base.
        NumericalError: A factor holds NaN or infinity.
    """
    found = _open(Path(path), component, base)
    adapter = found.adapter if component is None else _part(found, component)
    return replace(found, adapter=adapter if base is None else fitted(adapter, base))


def save_adapter(adapter: Adapter, path: Path, *, form: str) -> None:
    """Keep an adapter in a form.

    Args:
        adapter: What to write.
        path: File or folder; folder for ``peft``, file for ``kohya``, either for ``diffusers``.
        form: One of ``FORMS``.

    Raises:
        ConfigError: There is no such form, or the path does not suit it.
        UnsupportedError: The form cannot hold the adapter.
        NumericalError: A factor holds NaN or infinity.
    """
    match form:
        case "peft":
            PEFT().write(adapter, path)
        case "diffusers":
            Diffusers().write(adapter, path)
        case "kohya":
            Kohya().write(adapter, path)
        case _:
            expected = f"one of {', '.join(FORMS)}"
            close = nearest(form, FORMS)
            raise ConfigError(ConfigProblem(key="form", expected=expected, got=form, nearest=close))


def _open(path: Path, component: str | None, base: Path | None) -> AdapterFile:
    file = _weights(path) if path.is_dir() else path
    if file.suffix in _PICKLES:
        hint = "convert it to safetensors with the tool that wrote it"
        raise UnsupportedError(f"the pickle {str(file)!r}", by="this reader", hint=hint)
    if not file.is_file():
        raise PrerequisiteError(f"the file {str(file)!r}", remedy="check the path")
    if (file.parent / CONFIG).exists() and file.name == WEIGHTS:
        _weights(file.parent)
        return replace(PEFT(component=component).open(file.parent), path=path)
    names = TensorFile(file)
    if _is_peft(names):
        raise PrerequisiteError(
            f"{CONFIG!r} beside {str(file)!r}, which states the scale",
            remedy="take the folder as PEFT wrote it",
        )
    if is_kohya(names):
        return replace(Kohya(component=component, base=base).open(file), path=path)
    return replace(Diffusers(component=component).open(file), path=path)


def _part(found: AdapterFile, component: str) -> Adapter:
    components = found.adapter.components
    if component not in components:
        expected = f"one of {', '.join(components)}, as in the adapter"
        close = nearest(component, components)
        problem = ConfigProblem(key="component", expected=expected, got=component, nearest=close)
        raise ConfigError(problem, file=found.path)
    return found.adapter.only([component])


def _is_peft(names: Iterable[str]) -> bool:
    return any(name.startswith("base_model.model.") for name in names)


def _weights(folder: Path) -> Path:
    """The only safetensors file of a folder."""
    found = sorted(folder.glob("*.safetensors"))
    if len(found) > 1:
        expected = f"one adapter in {str(folder)!r}; name the file that is meant"
        names = [file.name for file in found]
        raise ConfigError(ConfigProblem(key="path", expected=expected, got=names))
    if not found:
        raise PrerequisiteError(
            f"a safetensors file in {str(folder)!r}",
            remedy="convert a pickle (.bin, .pt) with the tool that wrote it",
        )
    return found[0]
