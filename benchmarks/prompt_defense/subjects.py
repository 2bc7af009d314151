"""The text encoders: the base, a LEAF adapter, and a control that never saw an attack."""

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from loricate.attacks.char_search import CharSearch
from loricate.attacks.random_characters import RandomCharacters
from loricate.core.family import Family
from loricate.core.prompt_attack import PromptAttack
from loricate.defenses._prompt_target import PromptTarget
from loricate.defenses._training import Schedule
from loricate.defenses.leaf_lora import LeafLora
from loricate.recipes._data import calibration_captions, held_out_pictures
from loricate.recipes._models import load_family, model_path
from loricate.records.names import BASE

WINDOW = 10
"""Tokens read in training: nearly all captions fit, and fewer places are faster."""

LEAF, CONTROL = "LEAF", "equal_compute"
LONGER = 10 / 7
"""Steps of the control over those of LEAF.

A text of a LEAF step costs the base's pass, the clean one, four of the search, and two passes there
and back in training; with a typo for the search it costs one for those four. If a backward pass is
worth one pass forward that is 10 to 7, if it is worth two 12 to 9: at least equal by both.
"""


@dataclass(frozen=True)
class Subjects:
    """The embedded model, its held-out prompts, and the encoders trained for it.

    Args:
        folder: Where trained adapters are kept.
        n_prompts: Held-out captions.
        steps: Training steps of LEAF.
        seed: Seed of the trainings.
    """

    folder: Path
    n_prompts: int = 50
    steps: int = 700
    seed: int = 0

    @cached_property
    def model(self) -> Path:
        """The embedded model."""
        return model_path("emoji-sd")

    @cached_property
    def base(self) -> Family:
        """The undefended pipeline."""
        return load_family(self.model, "cpu")

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Held-out captions, each once."""
        pictures = held_out_pictures(self.model, None, self.base.image_size)
        return tuple(dict.fromkeys(pictures.prompts))[: self.n_prompts]

    @cached_property
    def families(self) -> dict[str, Family]:
        """Every pipeline by name, trained unless its file is there."""
        return {
            BASE: self.base,
            LEAF: self._trained(LEAF, CharSearch(n_samples=2), self.steps),
            CONTROL: self._trained(CONTROL, RandomCharacters(), round(self.steps * LONGER)),
        }

    def _trained(self, name: str, inner: PromptAttack, steps: int) -> Family:
        encoder = copy.deepcopy(self.base.module("text_encoder"))
        family = self.base.with_module("text_encoder", encoder)
        surface = family.text_encoder(window=WINDOW)
        known = [c for c in calibration_captions(self.model) if surface.n_tokens(c) < WINDOW - 3]
        schedule = Schedule(steps=steps, batch_size=32, learning_rate=4e-3)
        trained = LeafLora(inner=inner, rank_budget=0.35, max_drift=0.14, schedule=schedule).train(
            PromptTarget(encoder, surface),
            known,
            seed=self.seed,
            observe=lambda *_: None,
            checkpoint=self.folder / f"{name}.safetensors",
        )
        parameters, seconds = trained.log.parameters, trained.log.seconds
        print(f"{name}: {parameters} parameters, {steps} steps, {seconds:.0f} s")
        return family
