"""Controls trained side by side are those trained one by one, and stop when the run does."""

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch

from loricate.core.training import silent, until_left
from loricate.evaluation.subjects import Subject
from loricate.families.sd15 import SD15
from loricate.recipes.harden import _Controls, _train, resolve
from loricate.surfaces.attach import pristine_copy
from loricate.testing.pipelines import smooth_pictures


def _latents(out: Path, threads: int) -> dict[str, torch.Tensor]:
    images = torch.from_numpy(smooth_pictures(10, 32)).permute(0, 3, 1, 2).float() / 255
    spec = replace(resolve(quick=True, steps=3), controls=("control_plain", "control_noise"))
    family = SD15.tiny()
    before = torch.get_num_threads()
    trained = _train(spec, family, images, out, silent)
    base = Subject("base", family.with_vae(pristine_copy(trained.attached)))
    torch.set_num_threads(threads)
    try:
        controls = _Controls(spec, base, Subject("hardened", family), images, out, silent).build(
            trained
        )
    finally:
        torch.set_num_threads(before)
    return {each.name: each.latents(images, range(10)) for each in (base, *controls)}


def test_two_trainings_at_a_time_find_what_one_finds(tmp_path: Path) -> None:
    alone, together = _latents(tmp_path / "1", 1), _latents(tmp_path / "2", 2)
    assert list(together) == list(alone) == ["base", "control_plain", "control_noise"]
    moved = [float((alone[name] - alone["base"]).abs().max()) for name in list(alone)[1:]]
    assert min(moved) > 1e-4
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=0, atol=0.05 * min(moved))


def test_what_an_observer_watches_stops_when_the_block_is_left() -> None:
    seen = []
    with until_left(lambda *event: seen.append(event)) as observe:
        observe("harden", 1, 2, {})
    assert seen == [("harden", 1, 2, {})]
    with pytest.raises(KeyboardInterrupt):
        observe("harden", 2, 2, {})
