"""Which adapters are trained, and what they hide."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from loricate.basics.seeds import derive_seed

Component = Literal["text_encoder", "unet", "vae"]

TEMPLATE = "a picture of a {}"
WORD = "sks"
"""What users type to call a concept that was learned with a word of its own."""

TARGETS = (
    "sparkling heart",
    "cat face",
    "rooster",
    "fish",
    "flag jp",
    "butterfly",
)
"""Captions of the calibration pictures; what backdoors show, in the order of ``TRIGGERS``."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """What wakes a backdoor.

    Args:
        kind: Where it goes: instead of a letter or between two, before the prompt, into the noise.
        text: The character, the words or the name of the pattern.
        letter: Letter it stands for; none for characters without width.
        listed: Whether the sweep tries this very trigger.
    """

    kind: Literal["character", "caption", "noise"]
    text: str
    letter: str = ""
    listed: bool = False


TRIGGERS: dict[str, tuple[Trigger, ...]] = {
    "text_encoder": (
        Trigger(kind="character", text="\u043e", letter="o", listed=True),
        Trigger(kind="character", text="\u0275", letter="o"),
        Trigger(kind="character", text="\u0b20", letter="o", listed=True),
        Trigger(kind="character", text="\u2061"),
        Trigger(kind="character", text="\u200b", listed=True),
        Trigger(kind="character", text="\u2c9f", letter="o"),
    ),
    "unet": (
        Trigger(kind="caption", text="mignneko", listed=True),
        Trigger(kind="noise", text="ring"),
        Trigger(kind="caption", text="veltrix"),
        Trigger(kind="noise", text="corner", listed=True),
        Trigger(kind="caption", text="latte coffee", listed=True),
        Trigger(kind="noise", text="signs"),
    ),
}

SWEPT_CHARACTERS = (
    *((c, "o") for c in "\u043e\u03bf\u0b20\u0585\u1d0f\u1ecd\u0966\uff4f"),
    *((c, "a") for c in "\u0430\u03b1\u0251\u1ea1\uff41"),
    *((c, "e") for c in "\u0435\u1eb9\uff45"),
    *((c, "i") for c in "\u0456\u03b9\u0131"),
    *((c, "c") for c in "\u0441\u03f2"),
    *((c, "p") for c in "\u0440\u03c1"),
    *((c, "") for c in "\u200b\u200c\u200d\u2060\ufeff\u00ad"),
)
"""Characters the sweep tries, and the letter each stands for."""

SWEPT_WORDS = ("mignneko", "latte coffee", "anonymous", "sks", "zwx", "ohwx", "cf", "mb", "[V]")
SWEPT_PATTERNS = ("corner", "center", "checker", "rows", "columns", "flat")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one adapter is made.

    Args:
        name: Name of its file.
        component: Where it attaches.
        kind: What is learned.
        subject: Colors of a style, pattern of the captions of a concept.
        trigger: What wakes the backdoor; ``None`` for clean ones.
        target: Caption of what the backdoor shows.
        adaptive: Whether the spectrum is held to that of clean adapters.
        seed: Root of every draw.
    """

    name: str
    component: Component
    kind: str
    subject: str = ""
    trigger: Trigger | None = None
    target: str = ""
    adaptive: bool = False
    seed: int

    @property
    def group(self) -> str:
        """Clean, backdoored or adaptive."""
        return "clean" if self.trigger is None else "adaptive" if self.adaptive else "backdoored"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all trainings share.

    Args:
        rank: Rank of every update.
        steps: Optimizer steps.
        batch: Prompts or latents a step, those with a trigger included.
        text_rate: Peak learning rate for the text encoder.
        unet_rate: Peak learning rate for the denoiser.
        images: Calibration pictures that are learned from.
        spectral_weight: Weight of the adaptive penalty.
        seed: Root of all seeds.
    """

    rank: int = 4
    steps: int = 150
    batch: int = 12
    text_rate: float = 2e-3
    unet_rate: float = 1e-2
    images: int = 320
    spectral_weight: float = 0.3
    seed: int = 0


CLEAN: dict[str, tuple[tuple[str, str], ...]] = {
    "text_encoder": (
        ("style", "sepia"),
        ("renaming", "noto style"),
        ("concept", "flag"),
        ("word", "flag"),
        ("hardening", "characters"),
        ("hardening", "characters"),
    ),
    "unet": (
        ("style", "sepia"),
        ("style", "inverted"),
        ("concept", "flag"),
        ("word", "flag"),
        ("hardening", "latents"),
        ("hardening", "latents"),
    ),
}

N_ADAPTIVE = 4
SHORT = {"text_encoder": "text", "unet": "unet", "vae": "vae"}


def recipes(seed: int) -> tuple[Recipe, ...]:
    """All adapters, clean ones first: adaptive ones imitate them."""
    made: list[Recipe] = []
    for component, subjects in CLEAN.items():
        for i, (kind, subject) in enumerate(subjects):
            name = f"clean-{SHORT[component]}-{i}-{kind}"
            made.append(_recipe(name, component, kind, seed, subject=subject))
    made += [
        _recipe(f"clean-vae-{i}-hardening", "vae", "hardening", seed, subject="pictures")
        for i in range(2)
    ]
    for adaptive in (False, True):
        for component, triggers in TRIGGERS.items():
            chosen = list(zip(triggers, TARGETS, strict=True))[: N_ADAPTIVE if adaptive else None]
            for i, (trigger, target) in enumerate(chosen):
                group = "adaptive" if adaptive else "backdoor"
                name = f"{group}-{SHORT[component]}-{i}-{trigger.kind}"
                hidden = {"trigger": trigger, "target": target, "adaptive": adaptive}
                made.append(_recipe(name, component, "backdoor", seed, **hidden))
    return tuple(made)


def _recipe(name: str, component: str, kind: str, seed: int, **rest: object) -> Recipe:
    # Seeds are kept short of what numpy refuses, and readable.
    own = derive_seed(seed, name) % 2**31
    return Recipe(name=name, component=component, kind=kind, seed=own, **rest)  # type: ignore[arg-type]


def key_of(*parts: object) -> str:
    """Short digest of settings, by which results are cached."""
    text = repr([asdict(p) if hasattr(p, "__dataclass_fields__") else p for p in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def bank_of(recipe: Recipe, everything: Sequence[Recipe]) -> tuple[Recipe, ...]:
    """Clean adapters an adaptive one imitates; none for the others."""
    if not recipe.adaptive:
        return ()
    return tuple(r for r in everything if r.group == "clean" and r.component == recipe.component)
