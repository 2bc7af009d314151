"""Broken needs both distances and visibility; thresholds come from benign changes of the base."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from loricate.attacks.random_noise import RandomNoise
from loricate.evaluation.edit_rule import EditDistance, Edits, broken, calibrate
from loricate.evaluation.plan import Plan, Trial
from loricate.evaluation.subjects import Pictures, Subject
from loricate.families.sd15 import SD15
from loricate.objectives.latent_shift import LatentShift
from loricate.records.schema import EditRule
from loricate.testing.pipelines import smooth_pictures


def _rule(**changes) -> EditRule:
    fields = {"feature_threshold": 0.2, "ssim_threshold": 0.8, "visible_ssim": 0.9}
    return EditRule(percentile=0.95, n=3, **(fields | changes))


@pytest.mark.parametrize(
    ("feature", "ssim", "expected"),
    [
        (0.3, 0.7, True),
        (0.3, 0.85, False),  # far for the judge, but alike
        (0.1, 0.7, False),  # unlike, but the same to the judge
        (0.1, 0.85, False),
        (0.2, 0.7, False),  # at a threshold is not beyond it
        (0.3, 0.8, False),
    ],
)
def test_both_distances_are_needed(feature: float, ssim: float, expected: bool) -> None:
    far, alike = (torch.tensor([value], dtype=torch.float64) for value in (feature, ssim))
    distance = EditDistance(far, alike)
    assert broken(_rule(), distance).tolist() == [expected]


def test_what_nobody_sees_is_not_broken() -> None:
    stiff = _rule(feature_threshold=0.001, ssim_threshold=0.99)
    distance = EditDistance(torch.tensor([0.3, 0.3]), torch.tensor([0.95, 0.85]))
    assert broken(stiff, distance).tolist() == [False, True]


class _MeanColor:
    """A judge that sees the mean color alone."""

    def features(self, images):
        return images.mean((2, 3))

    def alignment(self, images, prompts):
        return torch.full((len(images),), float("nan"))


@pytest.fixture(scope="module")
def base() -> Subject:
    return Subject("base", SD15.tiny())


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    images = torch.from_numpy(smooth_pictures(3, 32)).permute(0, 3, 1, 2).float() / 255
    return Pictures(images, tuple("abc"))


def _plan(**changes) -> Plan:
    trials = (Trial(attack=RandomNoise(), objective=LatentShift(), epsilons=(8 / 255,)),)
    return Plan(trials=trials, **({"batch_size": 2} | changes))


def test_the_thresholds_are_percentiles_over_all_benign_changes(base, pictures) -> None:
    rule = calibrate(base, _MeanColor(), pictures, _plan(), seed=0)
    assert [change.kind for change in rule.benign] == ["random_noise", "jpeg_75", "shift_1px"]
    assert [change.n for change in rule.benign] == [3, 3, 3]
    assert (rule.n, rule.percentile, rule.visible_ssim) == (9, 0.95, 0.9)
    everything = calibrate(base, _MeanColor(), pictures, _plan(percentile=1.0), seed=0)
    assert everything.feature_threshold == max(c.feature_distance for c in everything.benign)
    assert everything.ssim_threshold == min(c.ssim for c in everything.benign)
    assert rule.feature_threshold < everything.feature_threshold
    assert rule.ssim_threshold > everything.ssim_threshold


def test_no_benign_change_is_broken_at_the_hundredth_percentile(base, pictures) -> None:
    plan = _plan(percentile=1.0)
    rule = calibrate(base, _MeanColor(), pictures, plan, seed=0)
    shifted = torch.cat([pictures.images[..., :1], pictures.images[..., :-1]], -1)
    edits, clean = (
        Edits.seen_by(_MeanColor(), base.edits(pictures, images, plan.edit, 0))
        for images in (shifted, pictures.images)
    )
    distance = EditDistance.between(edits, clean)
    assert not broken(rule, distance).any()
    assert distance.ssim.numpy().min() < 1


def test_the_rule_is_the_same_every_time_and_moves_with_the_radius(base, pictures) -> None:
    first, again = (calibrate(base, _MeanColor(), pictures, _plan(), seed=0) for _ in range(2))
    assert first == again
    wider = calibrate(base, _MeanColor(), pictures, _plan(epsilon=32 / 255), seed=0)
    noise = [rule.benign[0].ssim for rule in (wider, first)]
    assert noise[0] < noise[1]
    assert np.isfinite([wider.feature_threshold, wider.ssim_threshold]).all()
