"""Where results may be written: never over a source, nor over anything that is no adapter."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from loricate.adapters.adapter import Adapter
from loricate.adapters.files import FORMS, save_adapter
from loricate.adapters.formats import diffusers, peft
from loricate.adapters.formats.diffusers import Diffusers
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.keys import KOHYA_PREFIXES
from loricate.adapters.staging import require_apart
from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import (
    ConfigError,
    ConfigProblem,
    HostileFileError,
    PrerequisiteError,
    UnsupportedError,
    nearest,
)
from loricate.basics.files import write_atomically
from loricate.integrity._walk import files_of

__all__ = [
    "Destination",
    "DtypeName",
    "require_new",
    "require_outside",
    "write_report",
    "writing_to",
]

DtypeName = Literal["float32", "float16", "bfloat16"]

_LONE = "diffusers-model"
_OWN = {"peft": {peft.WEIGHTS, peft.CONFIG}, "diffusers": {diffusers.WEIGHTS}}
_WEIGHTS = {peft.WEIGHTS, diffusers.WEIGHTS}
_FILES = set[str]().union(*_OWN.values())
_MARKS = (".lora_", "_lora.", ".lora.")
_HOLDS: Mapping[str, Collection[str]] = {
    "diffusers": diffusers.COMPONENTS,
    "kohya": set(KOHYA_PREFIXES.values()),
}


@final
@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where an adapter goes, and how it is kept there.

    Args:
        path: File or folder.
        form: ``peft``, ``diffusers`` or ``kohya``; ``None`` keeps that of the source.
        dtype: Dtype of the factors; ``None`` keeps that of the source.
        pad: Whether a kohya file gets one rank a component, which diffusers insists on; user
            interfaces read mixed ranks, which take less room.
    """

    path: Path
    form: str | None = None
    dtype: DtypeName | None = None
    pad: bool = True

    def require_free(self, sources: Sequence[Path]) -> None:
        """Refuse a path where something could be lost, or that does not suit the form.

        Args:
            sources: Files and folders that are read. An adapter that is at the path already may
                be replaced.

        Raises:
            ConfigError: There is no such form, the path suits another, is a source, lies in or
                around one, or is something else than an adapter.
            PrerequisiteError: Nothing can be written there.
        """
        require_apart(self.path, sources)
        _require_place(self.path)
        self._require_kind()
        is_free = _is_adapter_folder if self.path.is_dir() else _is_adapter
        if self.path.exists() and not is_free(self.path):
            expected = "a new path, an empty folder, or an adapter to replace"
            raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(self.path)))

    def require_components(self, components: Collection[str]) -> None:
        """Refuse components that the form cannot hold.

        Args:
            components: What the adapter updates.

        Raises:
            ConfigError: There are several, and it takes one.
            UnsupportedError: It has no names for one.
        """
        listed = ", ".join(sorted(components))
        if self.form in ("peft", _LONE) and len(components) > 1:
            expected = f"one of {listed} by --component, as {self.form!r} holds only one"
            expected += "; or all of them with --to diffusers"
            raise ConfigError(ConfigProblem(key="component", expected=expected, got=None))
        if odd := sorted(set(components).difference(_HOLDS.get(self.form or "", components))):
            hint = "take others with --component, another form with --to, or bake it (merged)"
            hint = "say what it is with --component" if odd == ["model"] else hint
            raise UnsupportedError(f"component {odd[0]!r}", by=f"form {self.form!r}", hint=hint)

    def save(self, adapter: Adapter) -> None:
        """Write an adapter to the path, in place of one that is there in any form.

        Args:
            adapter: What to write; ``require_free`` and ``require_components`` let it pass.

        Raises:
            LoricateError: What the form refuses.
            PrerequisiteError: There is no room or permission to write.
        """
        with writing_to(self.path):
            match self.form:
                case "diffusers-model":
                    Diffusers(lone=True).write(adapter, self.path)
                case "kohya":
                    Kohya(pad=self.pad).write(adapter, self.path)
                case form:
                    save_adapter(adapter, self.path, form=str(form))
            if self.path.is_dir():
                for other in _FILES - _OWN["peft" if self.form == "peft" else "diffusers"]:
                    (self.path / other).unlink(missing_ok=True)

    def _require_kind(self) -> None:
        if self.form not in (*FORMS, _LONE):
            expected, close = f"one of {', '.join(FORMS)}", nearest(str(self.form), FORMS)
            problem = ConfigProblem(key="form", expected=expected, got=self.form, nearest=close)
            raise ConfigError(problem)
        has_ending = self.path.suffix == ".safetensors"
        is_file = {"peft": False, "kohya": True}.get(self.form, has_ending)
        is_other = self.path.exists() and self.path.is_file() != is_file
        if is_file != has_ending or is_other:
            kind = "file that ends in .safetensors" if is_file else "folder"
            expected = f"the path of a {kind}, for the form {self.form!r}"
            raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(self.path)))


def require_new(out: Path, sources: Sequence[Path]) -> None:
    """Refuse a destination that exists, unless it is an empty folder.

    Args:
        out: File or folder.
        sources: Files and folders that are read.

    Raises:
        ConfigError: Something is there, or it lies in or around a source.
        PrerequisiteError: Nothing can be written there.
    """
    require_apart(out, sources)
    _require_place(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        expected = "a new path or an empty folder"
        raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))


def require_outside(out: Path, sources: Iterable[Path]) -> None:
    """Refuse a report in place of what it is about, or among it, by whatever name or link.

    Args:
        out: Where the report goes. A file that is there may be replaced.
        sources: Files and folders that are read.

    Raises:
        ConfigError: It is a source, or lies in one.
        PrerequisiteError: Nothing can be written there.
    """
    with writing_to(out):
        ours = {Path(os.path.realpath(out)), Path(os.path.realpath(out.parent)) / out.name}
        for source in sources:
            theirs = Path(os.path.realpath(source))
            is_inside = any(path.is_relative_to(theirs) for path in ours)
            if is_inside or (out.exists() and _holds(source, out)):
                expected = f"a path outside of what is read, {str(source)!r}"
                raise ConfigError(ConfigProblem(key="out", expected=expected, got=str(out)))
        if _is_replaced(out):
            _require_place(Path(os.path.realpath(out)))


def write_report(out: Path, content: bytes) -> None:
    """Write a file, in one step where it is new or a plain one.

    Links are followed. What is neither a file nor a folder, such as a device or a pipe, is written
    into and stays what it is.

    Args:
        out: Where to; ``require_outside`` let it pass.
        content: The bytes.

    Raises:
        PrerequisiteError: There is no room or permission to write.
    """
    with writing_to(out):
        if _is_replaced(out):
            write_atomically(Path(os.path.realpath(out)), content)
        else:
            with out.open("wb") as file:
                file.write(content)


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turn a refusal of the file system into one that names the destination.

    Args:
        out: File or folder.

    Raises:
        PrerequisiteError: There is no room or permission to write, or a folder is in the way.
    """
    try:
        yield
    except OSError as error:
        raise _no_place(out, error.strerror or str(error)) from error


def _require_place(out: Path) -> None:
    with writing_to(out):
        folder = next(each for each in out.absolute().parents if each.exists())
    if not folder.is_dir():
        raise _no_place(out, f"{str(folder)!r} is no folder")
    if not os.access(folder, os.W_OK):
        raise _no_place(out, f"no permission to write into {str(folder)!r}")


def _no_place(out: Path, why: str) -> PrerequisiteError:
    missing = f"a place to write {str(out)!r} ({why})"
    return PrerequisiteError(missing, remedy="name another path with --out")


def _holds(source: Path, file: Path) -> bool:
    """Whether a file is one at or below a path, by another name."""
    found = (each.path for each in files_of([source]) if each.trouble is None)
    return any(each.samefile(file) for each in found)


def _is_replaced(out: Path) -> bool:
    """Whether there is nothing yet, or a plain file that a new one may be put in place of."""
    real = Path(os.path.realpath(out))
    # A link of /proc may lead to a file that has no name any more.
    return not out.exists() or (out.is_file() and real.exists() and real.samefile(out))


def _is_adapter_folder(folder: Path) -> bool:
    names = {entry.name for entry in folder.iterdir()}
    return not names or (names <= _FILES | {"README.md"} and bool(names & _WEIGHTS))


def _is_adapter(path: Path) -> bool:
    try:
        return any(mark in name for name in TensorFile(path) for mark in _MARKS)
    except (HostileFileError, UnsupportedError):
        return False
