"""From what a user calls a model to a loaded family and its judge."""

from pathlib import Path

import torch

from loricate import models
from loricate.core.family import Family
from loricate.evaluation.subjects import FeatureSpace
from loricate.families._judge import ClipJudge, LatentJudge
from loricate.families.sd15 import SD15

__all__ = ["judge_of", "load_family", "model_path"]


def model_path(model: str) -> Path:
    """Folder of an embedded model by its name; anything else is taken as a path or hub id."""
    return models.path(model) if model in models.names() else Path(model)


def load_family(path: Path, device: str) -> Family:
    """The family of a model, on a device; ``auto`` prefers cuda, then mps."""
    return SD15.load(path, device=_device(device))


def judge_of(path: Path, judge: Path | None, base: Family) -> FeatureSpace:
    """The judge given, the one shipped with the model, or the base encoder."""
    folder = judge or path / "judge"
    if folder.is_dir():
        return ClipJudge(folder, str(base.device))
    return LatentJudge(base.vae_encoder())


def _device(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
