"""What a fine-tuning has made of a denoiser, judged on clean pictures of its concept."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, final

import torch
from torch import Tensor

from loricate.core.balls import Ball
from loricate.core.family import EditSettings
from loricate.core.generators import generators, sample_seeds
from loricate.core.shapes import Images
from loricate.core.surrogate import FineTuneSettings
from loricate.evaluation.statistics import Interval, bootstrap_difference
from loricate.evaluation.subjects import FeatureSpace
from loricate.families.sd15 import SD15
from loricate.metrics.ssim import SSIM

__all__ = ["METRICS", "Concept", "FineTuned", "Trial", "fine_tune", "harm", "noised"]

METRICS: Final = ("loss", "identity", "similarity", "alignment")


@final
@dataclass(frozen=True)
class Concept:
    """What is to be learned.

    Args:
        prompt: How users call it.
        train: Clean pictures that are fine-tuned on, attacked or not.
        held_out: Clean pictures of it that never are.
    """

    prompt: str
    train: Images
    held_out: Images


@final
@dataclass(frozen=True, kw_only=True)
class Trial:
    """How a fine-tuned denoiser is judged.

    Args:
        settings: Of the victim's fine-tuning.
        sampling: Of the generated pictures.
        n_generated: How many of them.
        n_draws: Timesteps and noises each held-out picture is denoised at.
    """

    settings: FineTuneSettings
    sampling: EditSettings
    n_generated: int = 8
    n_draws: int = 8


@final
@dataclass(frozen=True, kw_only=True)
class FineTuned:
    """Quality of a fine-tuned denoiser; only the loss is better when it is low.

    Args:
        loss: Denoising error on held-out clean pictures of the concept.
        identity: Judge's cosine between generated and nearest clean training picture.
        similarity: SSIM between generated and most similar clean training picture.
        alignment: Judge's cosine between generated picture and prompt; NaN if it reads none.
    """

    loss: float
    identity: float
    similarity: float
    alignment: float

    def as_dict(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


def fine_tune(
    family: SD15, concept: Concept, pictures: Images, trial: Trial, judge: FeatureSpace, seed: int
) -> FineTuned:
    """Fine-tune on pictures, attacked or not, and judge by the clean ones.

    Args:
        family: The pipeline; it is left as it is.
        concept: What is to be learned.
        pictures: What is learned from, in place of ``concept.train``.
        trial: How it is done.
        judge: Feature space that trained nothing.
        seed: Of training and evaluation; the same one pairs two sets of pictures.

    Returns:
        The figures.
    """
    tuned = _tuned(family, concept, pictures, trial, seed)
    n = trial.n_generated
    seeds = sample_seeds(seed, range(n), "generated")
    generated = tuned.generate([concept.prompt] * n, seeds, trial.sampling)
    cosine = judge.features(generated) @ judge.features(concept.train).T
    return FineTuned(
        loss=_held_out_loss(tuned, concept, trial, seed),
        identity=float(cosine.amax(1).mean()),
        similarity=float(_ssim(generated, concept.train).amax(1).mean()),
        alignment=float(judge.alignment(generated, [concept.prompt] * n).mean()),
    )


def noised(x: Images, ball: Ball, seed: int) -> Images:
    """Saved pictures with random noise of full radius: the control an attack is held to.

    Args:
        x: Clean pictures.
        ball: Budget.
        seed: Of the noise.
    """
    z = ball.surface_sample(x, generators(sample_seeds(seed, range(len(x))), "control"))
    return (z.clamp(0, 1) * 255).round() / 255


def harm(
    first: Sequence[Mapping[str, float]],
    second: Sequence[Mapping[str, float]],
    *,
    seed: int,
    concepts: Sequence[str] | None = None,
) -> dict[str, Interval]:
    """By how much the second fine-tunings are worse than the first, paired; positive is harm.

    Args:
        first: Figures of fine-tunings, such as those on clean pictures.
        second: Figures of the same concepts and seeds on other pictures.
        seed: Of the bootstrap.
        concepts: Concept of each fine-tuning: those of one concept are resampled together, as
            other seeds tell little of other concepts.

    Returns:
        Interval of each metric.
    """
    return {
        name: bootstrap_difference(*_signed(name, first, second), seed=seed, clusters=concepts)
        for name in METRICS
    }


def _tuned(family: SD15, concept: Concept, pictures: Images, trial: Trial, seed: int) -> SD15:
    victim = family.fine_tuning([concept.prompt] * len(pictures), trial.settings, seed=seed)
    victim.adapt(pictures, sample_seeds(seed, range(len(pictures)), "victim"))
    return family.with_module("unet", victim.merged())


def _held_out_loss(tuned: SD15, concept: Concept, trial: Trial, seed: int) -> float:
    n = len(concept.held_out)
    denoiser = tuned.fine_tuning([concept.prompt] * n, trial.settings)
    losses = [
        denoiser.loss(concept.held_out, sample_seeds(seed, range(n), "held-out", draw))
        for draw in range(trial.n_draws)
    ]
    return float(torch.stack(losses).mean())


def _ssim(generated: Images, train: Images) -> Tensor:
    ssim = SSIM()
    columns = [ssim(generated, each.expand_as(generated)) for each in train.split(1)]
    return torch.stack(columns, dim=1)


def _signed(
    name: str, first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]
) -> tuple[list[float], list[float]]:
    before, after = [row[name] for row in first], [row[name] for row in second]
    return (after, before) if name == "loss" else (before, after)
