"""When an edit counts as broken: decided by benign changes, before any attack is scored."""

from collections.abc import Callable, Sequence
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
from loricate.evaluation.workers import Workers
from loricate.metrics.feature_distance import FeatureDistance
from loricate.metrics.ssim import SSIM
from loricate.records.schema import BenignChange, EditRule

__all__ = ["EditDistance", "Edits", "broken", "calibrate"]

_JPEG_QUALITY = 75


@dataclass(frozen=True)
class Edits:
    """Edited pictures, and how the judge sees them.

    Args:
        images: Pixels in [0, 1].
        features: One vector a picture.
    """

    images: Images
    features: Tensor

    @classmethod
    def seen_by(cls, judge: FeatureSpace, images: Images) -> "Edits":
        """Pictures with the judge's features."""
        return cls(images, judge.features(images))


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
    def between(cls, edits: Edits, clean: Edits) -> "EditDistance":
        """Distances of each edit to its clean edit."""
        feature = FeatureDistance()(edits.features, clean.features)
        return cls(feature, SSIM()(edits.images, clean.images))


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
    measured = _benign(base, judge, pictures, plan, seed)
    feature = np.concatenate([d.feature.numpy() for d in measured.values()])
    ssim = np.concatenate([d.ssim.numpy() for d in measured.values()])
    share = float(plan.percentile)
    return EditRule(
        feature_threshold=float(np.quantile(feature, share)),
        ssim_threshold=float(np.quantile(ssim, 1 - share)),
        visible_ssim=float(plan.visible_ssim),
        percentile=share,
        n=len(feature),
        benign=tuple(_summary(kind, distance, share) for kind, distance in measured.items()),
    )


def _summary(kind: str, distance: EditDistance, share: float) -> BenignChange:
    return BenignChange(
        kind=kind,
        n=len(distance.feature),
        feature_distance=float(np.quantile(distance.feature.numpy(), share)),
        ssim=float(np.quantile(distance.ssim.numpy(), 1 - share)),
    )


def _benign(
    base: Subject, judge: FeatureSpace, pictures: Pictures, plan: Plan, seed: int
) -> dict[str, EditDistance]:
    """How far each kind of harmless change takes the edits."""
    changes: dict[str, Callable[[Pictures], Images]] = {
        "random_noise": lambda p: _noisy(p, float(plan.epsilon), seed),
        "jpeg_75": lambda p: JPEG(quality=_JPEG_QUALITY)(p.images, p.indices),
        "shift_1px": lambda p: _shifted(p.images),
    }

    def edited(chunk: Pictures, images: Images) -> Edits:
        return Edits.seen_by(judge, base.edits(chunk, images, plan.edit, seed))

    def measured(chunk: Pictures) -> dict[str, EditDistance]:
        clean = edited(chunk, chunk.images)
        return {
            kind: EditDistance.between(edited(chunk, change(chunk)), clean)
            for kind, change in changes.items()
        }

    chunks = pictures.chunks(plan.batch_size)
    parts = list(Workers.suited_to(pictures.images).map(measured, chunks))
    return {kind: _joined([part[kind] for part in parts]) for kind in changes}


def _joined(parts: Sequence[EditDistance]) -> EditDistance:
    feature = torch.cat([part.feature for part in parts])
    return EditDistance(feature.cpu(), torch.cat([part.ssim for part in parts]).cpu())


def _noisy(pictures: Pictures, epsilon: float, seed: int) -> Images:
    # Other draws than the noise control's, or the control would be its own yardstick.
    seeds = sample_seeds(seed, pictures.indices, "benign")
    x = pictures.images
    ball = Linf(epsilon=epsilon)
    z = PIXELS.clip(ball.surface_sample(x, generators(seeds)))
    return PIXELS.rounded(z, x, ball)


def _shifted(x: Images) -> Images:
    return torch.cat([x[..., :1], x[..., :-1]], dim=-1)
