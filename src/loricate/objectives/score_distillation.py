"""Use the denoiser's error as the gradient, in one direction or the other."""

from dataclasses import dataclass
from typing import Literal, final

from torch import Tensor

from loricate.core.generators import Seeds
from loricate.core.objective import Objective
from loricate.core.shapes import Batch, PerSample
from loricate.core.surface import Surface

__all__ = ["ScoreDistillation"]


@final
@dataclass(frozen=True, kw_only=True)
class ScoreDistillation(Objective):
    """Half the squared error of the predicted noise, raised (+) or lowered (-).

    The shortcut leaves the denoiser out of the backward pass: the gradient in the latents is the
    error itself, ``eps_theta(z_t) - eps``, and only the encoder is differentiated. Values are the
    same either way.

    Args:
        sign: ``"-"`` lowers the error, which smooths pictures; ``"+"`` raises it.
        jacobian: ``"shortcut"`` is score distillation, ``"exact"`` the true gradient.

    Source: Diff-Protect, Xue et al. 2024 [diffprotect2024], SDS(+) and SDS(-) with weight
    ``w(t) = 1``; the shortcut of Poole et al. 2023 [poole2023], equation 3. Deviates: starts where
    the attack starts, and draws are fixed for a whole attack.
    """

    sign: Literal["+", "-"] = "-"
    jacobian: Literal["shortcut", "exact"] = "shortcut"

    @property
    def surface_kind(self) -> str:  # type: ignore[override]
        """The denoiser, with the backward pass asked for."""
        return "denoiser" if self.jacobian == "exact" else "denoiser_shortcut"

    def reference(self, surface: Surface, x: Batch, seeds: Seeds) -> Tensor:
        """No error at all."""
        return x.new_zeros(len(x))

    def value(self, output: Tensor, reference: Tensor) -> PerSample:
        """Half the squared error of each sample, with its sign."""
        half = output.flatten(1).pow(2).sum(1) / 2
        return half if self.sign == "+" else -half
