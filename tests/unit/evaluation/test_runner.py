"""A plan gives the same rows in the same order, however many jobs run at a time."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.basics.errors import ConfigError
from loricate.core.family import EditSettings
from loricate.core.training import silent
from loricate.evaluation.plan import Plan, Trial
from loricate.evaluation.runner import WHOLE, Runner, Shard
from loricate.evaluation.subjects import Pictures, Subject
from loricate.families._judge import LatentJudge
from loricate.families.sd15 import SD15
from loricate.objectives.edit_shift import EditShift
from loricate.objectives.latent_shift import LatentShift
from loricate.records.schema import EditRule, SampleRow
from loricate.testing.pipelines import smooth_pictures

_RULE = EditRule(feature_threshold=0.01, ssim_threshold=0.9, visible_ssim=0.9, percentile=0.95, n=3)
_SHORT = EditSettings(num_inference_steps=2)
_PLAN = Plan(
    trials=(
        Trial(attack=RandomNoise(), objective=LatentShift(), epsilons=("4/255", "8/255")),
        Trial(attack=PGD(steps=3), objective=LatentShift(), epsilons=("8/255",)),
        Trial(attack=PGD(steps=2), objective=EditShift(), epsilons=("8/255",)),
    ),
    epsilon=8 / 255,
    batch_size=2,
    edit=EditSettings(num_inference_steps=4),
    attacked_edit=_SHORT,
)


def _runner(out: Path, family: SD15, shard: Shard = WHOLE) -> tuple[Runner, list[Subject]]:
    images = torch.from_numpy(smooth_pictures(3, 32)).permute(0, 3, 1, 2).float() / 255
    pictures = Pictures(images, ("a cat", "a dog", "a bird"))
    subjects = [Subject("base", family), Subject("hardened", family.with_vae(_other(family)))]
    judge = LatentJudge(family.vae_encoder())
    runner = Runner(_PLAN, pictures, judge, subjects[0], _RULE, out, 0, silent, shard)
    return runner, subjects


def _other(family: SD15) -> nn.Module:
    return type(family).tiny().vae.apply(_shrink)


def _shrink(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        module.weight.data.mul_(0.9)


def _rows(out: Path, threads: int) -> list[SampleRow]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        runner, subjects = _runner(out, SD15.tiny())
        runner.run(subjects)
    finally:
        torch.set_num_threads(before)
    return list(runner.log)


def test_two_at_a_time_find_what_one_finds(tmp_path: Path) -> None:
    alone, together = _rows(tmp_path / "1", 1), _rows(tmp_path / "2", 2)
    assert [row.key for row in together] == [row.key for row in alone]
    assert len(alone) == 2 * 3 * 5  # subjects, pictures, conditions with the clean one
    for one, two in zip(alone, together, strict=True):
        assert two.values == pytest.approx(one.values, rel=1e-3, abs=1e-4, nan_ok=True)


def test_a_finished_job_is_not_done_again_and_a_lost_picture_is_made_again(tmp_path: Path) -> None:
    first = [row.model_dump_json() for row in _rows(tmp_path, 1)]
    files = sorted((tmp_path / "adversarial").rglob("*.npz"))
    assert len(files) == 2 * 4 * 2  # subjects, attacked conditions, batches
    ages = [file.stat().st_mtime_ns for file in files]
    content = files[0].read_bytes()
    files[0].unlink()
    assert [row.model_dump_json() for row in _rows(tmp_path, 1)] == first
    assert files[0].read_bytes() == content
    assert [file.stat().st_mtime_ns for file in files[1:]] == ages[1:]


def test_similarities_are_those_of_the_rows(tmp_path: Path) -> None:
    runner, subjects = _runner(tmp_path, SD15.tiny())
    runner.run(subjects)
    hardened, condition = subjects[1], _PLAN.trials[1].condition(8 / 255)
    pictures = runner.pictures.head(2)
    images = runner.adversarial(hardened, condition)
    assert images is not None
    scores = runner.score(hardened, pictures, images[:2])
    found = runner.similarities(hardened, condition, pictures)
    assert found == pytest.approx(scores["edit_ssim"].tolist(), abs=1e-6)


def test_shares_of_the_pictures_make_one_run(tmp_path: Path) -> None:
    family = SD15.tiny()
    for index in range(2):
        runner, subjects = _runner(tmp_path / "shared", family, Shard(index, 2))
        runner.run(subjects)
    files = {path: path.read_bytes() for path in (tmp_path / "shared").rglob("*.npz")}
    runner, subjects = _runner(tmp_path / "shared", family)
    runner.run(subjects)
    alone, others = _runner(tmp_path / "alone", family)
    alone.run(others)
    key = {row.key: row.values for row in runner.log}
    assert key.keys() == {row.key for row in alone.log}
    for row in alone.log:
        assert key[row.key] == pytest.approx(row.values, rel=1e-4, abs=1e-5, nan_ok=True)
    # Nothing was attacked a second time.
    assert {path: path.read_bytes() for path in (tmp_path / "shared").rglob("*.npz")} == files


def test_pictures_of_a_condition_come_back_in_order(tmp_path: Path) -> None:
    runner, subjects = _runner(tmp_path, SD15.tiny())
    runner.run(subjects)
    condition = _PLAN.trials[1].condition(8 / 255)
    found = runner.adversarial(subjects[0], condition)
    assert found is not None
    assert len(found) == 3
    assert (found - runner.pictures.images).abs().amax() <= 8 / 255 + 1e-6
    lost = next((tmp_path / "adversarial" / "base").glob("pgd-latent_shift-linf-8/000000.npz"))
    lost.unlink()
    assert runner.adversarial(subjects[0], condition) is None


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "0/0"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a share such as"):
        Shard.parse(text)
    assert Shard.parse("1/4") == Shard(1, 4)
