"""When an edit counts as broken: decided by benign changes, before any attack is scored."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loricate.core.balls import Linf
from loricate.core.domain import PIXELS
from loricate.core.generators import generators, sample_seeds
from loricate.core.shapes import Images, PerSample
from loricate.defenses.jpeg import JPEG
from loricate.evaluation.plan import Plan
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.metrics.feature_distance import FeatureDistance
from loricate.metrics.ssim import SSIM
from loricate.records.schema import BenignChange, EditRule

__all__ = ["EditDistance", "broken", "calibrate"]

_JPEG_QUALITY = 75


@dataclass(frozen=True)
class EditDistance:
    """How far edits are from the clean ones.

    Args:
        feature: Distance in the judge's feature space.
        ssim: Structural similarity.
    """

    feature: PerSample
    ssim: PerSample

    @classmethod
    def between(cls, judge: FeatureSpace, edits: Images, clean: Images) -> "EditDistance":
        """Distances of each edit to its clean edit."""
        feature = FeatureDistance()(judge.features(edits), judge.features(clean))
        return cls(feature, SSIM()(edits, clean))


def broken(rule: EditRule, distance: EditDistance) -> Tensor:
    """Which edits are broken: beyond benign change in both measures, and visibly so."""
    is_far = distance.feature > rule.feature_threshold
    is_unlike = distance.ssim < min(rule.ssim_threshold, rule.visible_ssim)
    return is_far & is_unlike


def calibrate(
    base: Subject, judge: FeatureSpace, pictures: Pictures, plan: Plan, seed: int
) -> EditRule:
    """Thresholds from what benign changes do to edits by the base.

    Args:
        base: The undefended model.
        judge: Feature space.
        pictures: Held-out pictures.
        plan: Radius of the noise, sampler, percentile.
        seed: Root seed.

    Returns:
        The rule: the percentile over equal-norm noise, JPEG and one-pixel shifts together.
    """
    changes: dict[str, Callable[[Pictures], Images]] = {
        "random_noise": lambda p: _noisy(p, float(plan.epsilon), seed),
        "jpeg_75": lambda p: JPEG(quality=_JPEG_QUALITY)(p.images, p.indices),
        "shift_1px": lambda p: _shifted(p.images),
    }
    measured = {
        kind: _distances(base, judge, pictures, plan, seed, change)
        for kind, change in changes.items()
    }
    feature = np.concatenate([d.feature.numpy() for d in measured.values()])
    ssim = np.concatenate([d.ssim.numpy() for d in measured.values()])
    return EditRule(
        feature_threshold=float(np.quantile(feature, plan.percentile)),
        ssim_threshold=float(np.quantile(ssim, 1 - plan.percentile)),
        visible_ssim=float(plan.visible_ssim),
        percentile=float(plan.percentile),
        n=len(feature),
        benign=tuple(
            BenignChange(
                kind=kind,
                n=len(d.feature),
                feature_distance=float(np.quantile(d.feature.numpy(), plan.percentile)),
                ssim=float(np.quantile(d.ssim.numpy(), 1 - plan.percentile)),
            )
            for kind, d in measured.items()
        ),
    )


def _distances(
    base: Subject,
    judge: FeatureSpace,
    pictures: Pictures,
    plan: Plan,
    seed: int,
    change: Callable[[Pictures], Images],
) -> EditDistance:
    parts = []
    for chunk in pictures.chunks(plan.batch_size):
        clean = base.edits(chunk, chunk.images, plan.edit, seed)
        changed = base.edits(chunk, change(chunk), plan.edit, seed)
        parts.append(EditDistance.between(judge, changed, clean))
    return EditDistance(
        torch.cat([p.feature for p in parts]).cpu(), torch.cat([p.ssim for p in parts]).cpu()
    )


def _noisy(pictures: Pictures, epsilon: float, seed: int) -> Images:
    # Other draws than the noise control's, or the control would be its own yardstick.
    seeds = sample_seeds(seed, pictures.indices, "benign")
    x = pictures.images
    ball = Linf(epsilon=epsilon)
    z = PIXELS.clip(ball.surface_sample(x, generators(seeds)))
    return PIXELS.rounded(z, x, ball)


def _shifted(x: Images) -> Images:
    return torch.cat([x[..., :1], x[..., :-1]], dim=-1)
