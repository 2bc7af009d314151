"""The weights of a model on disk, by component, read one tensor at a time."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np

from loricate.adapters.tensors import TensorFile
from loricate.basics.errors import ConfigError, ConfigProblem, HostileFileError, PrerequisiteError

__all__ = [
    "StoredArray",
    "Weights",
    "component_folder",
    "open_file",
    "open_model",
    "open_weights",
]

StoredArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_PIPELINE = "model_index.json"
# Loaders look for no other names: those of diffusers, transformers and PEFT.
_LOADED = ("diffusion_pytorch_model", "model", "adapter_model")
_VARIANT_INDEX = re.compile(r"\.safetensors\.index\.[\w-]+\.json$")
# Where single-file checkpoints of Stable Diffusion keep their components.
_SINGLE_FILE = {
    "first_stage_model.": "vae",
    "model.diffusion_model.": "unet",
    "cond_stage_model.transformer.": "text_encoder",
    "cond_stage_model.model.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "conditioner.embedders.0.model.": "text_encoder_2",  # the refiner has this one alone
    "conditioner.embedders.1.model.": "text_encoder_2",
}


@final
@dataclass(frozen=True, eq=False)
class Weights(Mapping[str, StoredArray]):
    """Read-only tensors by name, from one file or several.

    Args:
        sources: File of each tensor, and its name there.
        stem: File name the weights go by, without variant, shard and ending.
        shapes: Shapes that differ from those in the file, by axes of length 1.
    """

    sources: Mapping[str, tuple[TensorFile, str]]
    stem: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> StoredArray:
        file, key = self.sources[name]
        return file[key].reshape(self.shape(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, from the header alone."""
        file, key = self.sources[name]
        return self.shapes.get(name, file.infos[key].shape)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Dtype of a tensor, from the header alone."""
        file, key = self.sources[name]
        return file.infos[key].dtype

    def in_disk_order(self) -> list[str]:
        """Names in the order of the bytes, in which reading is fastest."""

        def place(name: str) -> tuple[Path, int]:
            file, key = self.sources[name]
            return file.path, file.infos[key].start

        return sorted(self, key=place)


def open_file(path: Path) -> Weights:
    """All tensors of one safetensors file, under the names they have there.

    Raises:
        HostileFileError: The file is malformed.
    """
    file = TensorFile(path)
    return Weights({key: (file, key) for key in file}, path.name.partition(".")[0])


def open_model(path: str | Path) -> dict[str, Weights]:
    """Weights of each component of a model.

    Args:
        path: A diffusers folder, the folder of one component, or a safetensors file. A lone
            component is called by its folder; parts of a file that belong to no known component
            are called ``model``.

    Returns:
        Weights by component.

    Raises:
        PrerequisiteError: There are no safetensors weights.
        ConfigError: A folder leaves open which file holds the weights.
        HostileFileError: A file is malformed.
    """
    path = Path(path)
    if path.is_file():
        return _split(TensorFile(path))
    is_pipeline = (path / _PIPELINE).exists()
    if not is_pipeline and any(path.glob("*.safetensors")):
        return {path.resolve().name: open_weights(path)}
    folders = sorted({file.parent for file in path.glob("*/*.safetensors")})
    if not folders:
        raise PrerequisiteError(f"a safetensors file in {str(path)!r}", remedy="check the path")
    return {folder.name: open_weights(folder) for folder in folders}


def component_folder(model: Path, component: str) -> Path:
    """Folder of one component, given that folder or the diffusers folder around it.

    Raises:
        PrerequisiteError: There is no such component.
    """
    is_pipeline = (model / _PIPELINE).exists()
    for folder in (model / component,) if is_pipeline else (model / component, model):
        if any(folder.glob("*.safetensors")):
            return folder
    missing = f"component {component!r} with safetensors weights in {str(model)!r}"
    raise PrerequisiteError(missing, remedy="check the path and the component")


def open_weights(folder: Path) -> Weights:
    """Weights of one component, in one file or in shards.

    Where a folder holds variants of the same weights, the one without a variant name is taken;
    where one has a name that loaders look for, those that they pass over are not.

    Raises:
        ConfigError: The folder leaves open which file holds the weights.
        HostileFileError: A file is malformed.
    """
    found = sorted(file.name for file in folder.glob("*.safetensors*"))
    indexes, names = _candidates(found)
    if len(indexes) == 1:
        names = _shards(folder / indexes[0])
    if not names or len(indexes) > 1 or (len(names) > 1 and not indexes):
        expected = f"one file of weights in {str(folder)!r}"
        raise ConfigError(ConfigProblem(key="model", expected=expected, got=found))
    files = [TensorFile(folder / name) for name in names]
    sources = {key: (file, key) for file in files for key in file}
    if len(sources) < sum(map(len, files)):
        raise HostileFileError(folder / indexes[0], reason="two shards hold the same tensor")
    return Weights(sources, (indexes or names)[0].partition(".")[0])


def _candidates(found: Sequence[str]) -> tuple[list[str], list[str]]:
    """Indexes and files that may be meant, of all there are in a folder."""
    loaded = [name for name in found if name.partition(".")[0] in _LOADED] or found
    indexes = [name for name in loaded if name.endswith(".safetensors.index.json")]
    names = [name for name in loaded if name.endswith(".safetensors")]
    plain = [name for name in names if name.count(".") == 1]
    if not (indexes or plain):
        indexes = [name for name in loaded if _VARIANT_INDEX.search(name)]
    return indexes, plain if len(names) > 1 else names


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except OSError as error:
        missing = f"a readable file {str(index)!r} ({error.strerror or error})"
        raise PrerequisiteError(missing, remedy="check its permissions") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise HostileFileError(index, reason="expected a weight_map of file names") from None
    # A shard elsewhere on the disk would be read with the rights of whoever opens the model.
    if not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise HostileFileError(index, reason="a shard lies outside the folder")
    return names


def _split(file: TensorFile) -> dict[str, Weights]:
    sources: dict[str, dict[str, tuple[TensorFile, str]]] = {}
    for key in file:
        prefix = next(filter(key.startswith, _SINGLE_FILE), "")
        component = _SINGLE_FILE.get(prefix, "model")
        sources.setdefault(component, {})[key.removeprefix(prefix)] = (file, key)
    return {component: Weights(found, file.path.stem) for component, found in sources.items()}
