"""Words that the writer of a record, its judge and its reader must spell alike."""

from typing import Final

__all__ = [
    "BASE",
    "CONTROLS",
    "HARDENED",
    "NO_ATTACK",
    "NO_OBJECTIVE",
    "PARTS",
    "RANDOM_NOISE",
    "STRONGEST",
    "SUBJECTS",
    "WORST_CASE",
    "Metrics",
    "budget_text",
    "epsilon_text",
    "is_replicate",
    "replicate",
    "stem",
]

BASE: Final = "base"
"""The undefended model."""

HARDENED: Final = "hardened"
"""The model the verdict is about."""

CONTROLS: Final = ("control_plain", "control_noise", "control_truncation", "control_full")
PARTS: Final = ("part_adapter", "part_preprocessing")
"""The adapter without its preprocessing, and the preprocessing without the adapter."""

SUBJECTS: Final = (BASE, HARDENED, *PARTS, *CONTROLS)

_SEED: Final = "@"
"""Between the name of a defense and the seed it was trained with, where there are several."""

NO_ATTACK: Final = "none"
"""Attack of an aggregate measured on clean inputs; its epsilon is 0."""

NO_OBJECTIVE: Final = "none"
"""Objective of clean rows and of noise, which maximizes nothing."""

RANDOM_NOISE: Final = "random_noise"
"""Attack of the equal-norm noise control."""

STRONGEST: Final = "strongest"
"""Attack of the worst case per sample over every attack that was run."""

WORST_CASE: Final = "worst_case"
"""Objective that goes with ``STRONGEST``."""


class Metrics:
    """Metrics the verdict asks for; a record may hold others."""

    ATTACK_SUCCESS: Final = "edit_attack_success_rate"
    LATENT_DRIFT: Final = "latent_drift"
    PSNR: Final = "reconstruction_psnr"
    SSIM: Final = "reconstruction_ssim"
    EDIT_SSIM: Final = "edit_ssim"
    GENERATION_SSIM: Final = "generation_ssim"
    ALIGNMENT: Final = "prompt_alignment"
    EMBEDDING_SHIFT: Final = "embedding_shift"
    PROMPT_SUCCESS: Final = "prompt_attack_success_rate"
    GENERATION_ALIGNMENT: Final = "generation_alignment"
    DRIFT_REDUCTION: Final = "latent_drift_reduction"
    SUCCESS_REDUCTION: Final = "edit_attack_success_reduction"
    PSNR_LOSS: Final = "reconstruction_psnr_loss"
    ALIGNMENT_LOSS: Final = "prompt_alignment_loss"


def epsilon_text(epsilon: float) -> str:
    """A radius in pixels as people write it: ``8/255`` where it is one, else three digits."""
    levels = epsilon * 255
    whole = round(levels)
    return f"{whole}/255" if whole and abs(levels - whole) < 1e-6 else f"{epsilon:.3g}"


def budget_text(size: float, norm: str) -> str:
    """A budget as people write it: largest changes of pixels as fractions of 255, others plain."""
    return f"{epsilon_text(size) if norm == 'linf' else f'{size:g}'} {norm}"


def replicate(name: str, seed: int) -> str:
    """What a defense is called that was trained with one of several seeds."""
    return f"{name}{_SEED}{seed}"


def is_replicate(subject: str) -> bool:
    """Whether a subject is one of several trainings of a defense."""
    return _SEED in subject


def stem(subject: str) -> str:
    """The defense a subject is a training of; any other subject is its own."""
    return subject.partition(_SEED)[0]
