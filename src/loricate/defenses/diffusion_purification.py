"""Pictures noised and denoised by the deployed model itself."""

from dataclasses import dataclass
from typing import Annotated, final

from loricate.basics.errors import ConfigProblem, UnsupportedError
from loricate.basics.seeds import derive_seed
from loricate.basics.spec import Count, Range
from loricate.core.defense import InputDefense
from loricate.core.family import EditSettings, Family
from loricate.core.generators import Seeds
from loricate.core.shapes import Batch

__all__ = ["DiffusionPurification"]


@final
@dataclass(frozen=True, kw_only=True)
class DiffusionPurification(InputDefense):
    """Encode, noise up to a timestep, denoise with the empty prompt, decode.

    ``bind`` gives it the model. Gradients run through encoder, every denoising step and decoder
    with nothing left out, and pass the final clipping as if it were not there: saturated pixels
    would hide them. Attackers average over draws (``eot_samples``).

    Args:
        strength: Share of the noise schedule that is added and removed.
        num_inference_steps: Steps of the whole schedule; that share of them is run.

    Source: DiffPure, Nie et al. 2022 [nie2022]. Deviates: in the latent space of the
    deployed model, with DDIM instead of a stochastic solver, so that the noise is the only draw.
    """

    strength: Annotated[float, Range("a number above 0 and at most 1", float, 0, 1, above=True)] = (
        0.25
    )
    num_inference_steps: Count = 8

    @property
    def bpda(self) -> str:
        """The exact slope of what is clipped at last."""
        return "unclipped"

    @property
    def is_random(self) -> bool:
        """Always: noise is added."""
        return True

    def inconsistencies(self) -> list[ConfigProblem]:
        """A share of the schedule below one step would add no noise."""
        if int(self.num_inference_steps * self.strength) >= 1:
            return []
        expected = f"at least 1/{self.num_inference_steps}, one step of the schedule"
        return [ConfigProblem(key="strength", expected=expected, got=self.strength)]

    def bind(self, family: Family) -> InputDefense:
        """The purifier with its model."""
        return _Bound(self, family)

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        """Refused: there is no model yet."""
        raise UnsupportedError(
            "purification",
            by="a defense that no model is bound to",
            hint="call bind(family), or put it among the defenses of a Subject",
        )


@dataclass(frozen=True, eq=False)
class _Bound(InputDefense):
    """A purifier in front of its model."""

    spec: DiffusionPurification
    family: Family

    def __post_init__(self) -> None:
        """A model is no spec field, and the purifier has checked its own."""

    @property
    def bpda(self) -> str:
        return self.spec.bpda

    @property
    def is_random(self) -> bool:
        return self.spec.is_random

    def __call__(self, x: Batch, seeds: Seeds) -> Batch:
        settings = EditSettings(
            num_inference_steps=self.spec.num_inference_steps,
            strength=self.spec.strength,
            guidance=1.0,
        )
        purify = self.family.edit([""] * len(x), settings)
        # Not the draws of an edit behind: it would denoise the very noise that was added here.
        own = [derive_seed(seed, "purification") for seed in seeds]
        precision = next(self.family.vae.parameters()).dtype
        return purify(x.to(precision), own).to(x.dtype)
