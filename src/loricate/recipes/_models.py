"""From what a user calls a model to a loaded family and its judge."""

from pathlib import Path

import torch

from loricate import models
from loricate.basics.errors import ConfigError, ConfigProblem, PrerequisiteError
from loricate.core.family import Family
from loricate.evaluation.subjects import FeatureSpace
from loricate.families._judge import ClipJudge, LatentJudge
from loricate.families.sd15 import SD15

__all__ = ["judge_of", "load_family", "model_path"]


def model_path(model: str) -> Path:
    """Folder of an embedded model by its name, or the path or hub id as it is.

    Args:
        model: What the user wrote.

    Returns:
        Where to load from.

    Raises:
        ConfigError: Neither embedded, nor a file, nor of the form of a hub id.
    """
    could_be_elsewhere = "/" in model or Path(model).suffix or Path(model).exists()
    is_embedded = model in models.names()
    return Path(model) if could_be_elsewhere and not is_embedded else models.path(model)


def load_family(path: Path, device: str) -> Family:
    """The family of a model, on a device.

    Args:
        path: Folder, file or hub id.
        device: ``auto`` prefers cuda, then mps.

    Returns:
        The family.

    Raises:
        PrerequisiteError: There is no such model, or no such device.
    """
    return SD15.load(path, device=_device(device))


def judge_of(path: Path, judge: Path | None, base: Family) -> FeatureSpace:
    """The judge given, the one shipped with the model, or the base encoder.

    Args:
        path: Folder of the model.
        judge: Folder the user named, or ``None``.
        base: The undefended pipeline.

    Returns:
        A feature space.

    Raises:
        ConfigError: The folder named does not exist.
    """
    if judge is not None and not judge.is_dir():
        expected = "a folder with a CLIP-like model"
        raise ConfigError(ConfigProblem(key="judge", expected=expected, got=str(judge)))
    folder = judge or path / "judge"
    if folder.is_dir():
        return ClipJudge(folder, str(base.device))
    return LatentJudge(base.vae_encoder())


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise PrerequisiteError("a CUDA device", remedy="use --device cpu")
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
