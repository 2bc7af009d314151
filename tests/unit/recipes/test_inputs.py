"""Digests tell each part of a model and each set of pictures apart."""

from dataclasses import replace

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

import torch

from loricate.evaluation.subjects import Pictures
from loricate.families.sd15 import SD15
from loricate.recipes._inputs import digests_of

_PARTS = {"vae", "text_encoder", "unet"}


def test_a_change_shows_where_it_was_made_and_nowhere_else() -> None:
    family, images = SD15.tiny(), torch.rand(2, 3, 32, 32, generator=torch.Generator())
    pictures = Pictures(images, ("a cat", "a dog"))
    before = digests_of(family, pictures, images)
    assert before.keys() == _PARTS | {"held-out pictures", "calibration pictures"}
    assert digests_of(SD15.tiny(), pictures, images) == before
    assert digests_of(family, pictures).keys() == before.keys() - {"calibration pictures"}

    others = {
        "held-out pictures": (replace(pictures, prompts=("a cat", "a cow")), images),
        "calibration pictures": (pictures, images.flip(-1)),
    }
    for name, (held_out, calibration) in others.items():
        after = digests_of(family, held_out, calibration)
        assert {key for key in before if after[key] != before[key]} == {name}
    for part in _PARTS:
        changed = SD15.tiny()
        next(changed.module(part).parameters()).data.view(-1)[0] += 1
        after = digests_of(changed, pictures, images)
        assert {key for key in before if after[key] != before[key]} == {part}
