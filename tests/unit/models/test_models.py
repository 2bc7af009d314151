import hashlib
import json

import numpy as np
import pytest

from loricate import models
from loricate.basics.errors import ConfigError


def test_the_embedded_model_is_found_by_name() -> None:
    assert "emoji-sd" in models.names()
    assert (models.path("emoji-sd") / "model_index.json").is_file()


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError) as caught:
        models.path("emoji-ds")
    assert caught.value.problems[0].nearest == "emoji-sd"


def test_every_file_has_its_published_digest() -> None:
    folder = models.path()
    published = json.loads((folder / "digests.json").read_text())
    found = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "digests.json"
    }
    assert found == published


@pytest.mark.parametrize(("name", "count"), [("calibration", 640), ("test", 400)])
def test_pictures_come_with_captions_and_no_pickles(name: str, count: int) -> None:
    with np.load(models.path() / "images" / f"{name}.npz", allow_pickle=False) as stored:
        assert stored["images"].shape == (count, 48, 48, 3)
        assert stored["images"].dtype == np.uint8
        assert len(stored["captions"]) == len(stored["concepts"]) == count


def test_the_two_sets_of_pictures_share_no_concept() -> None:
    sets = []
    for name in ("calibration", "test"):
        with np.load(models.path() / "images" / f"{name}.npz") as stored:
            sets.append(set(stored["concepts"]))
    assert not sets[0] & sets[1]


def test_the_model_fits_its_budget() -> None:
    folder = models.path()
    weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    images = sum(path.stat().st_size for path in (folder / "images").iterdir())
    assert weights <= 40e6
    assert images <= 12e6
