"""The judge reads pictures as its own preprocessor says, and prompts as text."""

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from loricate import models
from loricate.basics.errors import PrerequisiteError
from loricate.families._judge import ClipJudge

_FOLDER = models.path() / "judge"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_features_are_unit_vectors_and_alignment_is_their_cosine(images: torch.Tensor) -> None:
    judge = ClipJudge(_FOLDER)
    assert torch.allclose(judge.features(images).norm(dim=1), torch.ones(3))
    alignment = judge.alignment(images, ["red apple", "cat face", "globe"])
    assert alignment.shape == (3,)
    assert bool((alignment.abs() <= 1 + 1e-6).all())


def test_other_normalization_gives_other_features(images: torch.Tensor, tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(_FOLDER, folder)
    path = folder / "preprocessor_config.json"
    table = json.loads(path.read_text()) | {"image_mean": [0.2, 0.4, 0.6]}
    path.write_text(json.dumps(table))
    shifted = images + torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1) - 0.5
    ours, theirs = ClipJudge(_FOLDER).features(images), ClipJudge(folder).features(shifted)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not torch.allclose(ours, ClipJudge(folder).features(images), atol=1e-3)


def test_a_judge_without_its_preprocessor_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "judge"
    shutil.copytree(_FOLDER, folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(PrerequisiteError) as caught:
        ClipJudge(folder)
    assert caught.value.missing.endswith("preprocessor_config.json")
