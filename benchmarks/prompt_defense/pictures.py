"""Free words that make the denoiser see another picture: UnlearnDiffAtk without an erased concept.

Every held-out prompt is pulled to a picture of something else, which the denoiser was trained on.
What is found is scored by how much lower the error of denoising the picture is than under the
prompt, on the attack's own noise and on noise it never saw; the picture's true caption is the mark.
Pictures drawn from it are judged by how well they fit that caption.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loricate.attacks.random_tokens import RandomTokens
from loricate.attacks.token_search import TokenSearch
from loricate.core.family import EditSettings, Family
from loricate.core.generators import sample_seeds
from loricate.core.prompt_attack import PromptAttack, PromptResult
from loricate.core.prompt_surface import PromptSurface
from loricate.core.text_budgets import TokenBudget
from loricate.evaluation.statistics import bootstrap_difference, bootstrap_mean
from loricate.objectives.diffusion_classifier import DiffusionClassifier
from loricate.recipes._data import calibration_captions, calibration_images
from loricate.recipes._models import judge_of
from prompt_defense.figures import numbers
from prompt_defense.subjects import Subjects

SEARCH = TokenSearch(steps=5, batch_size=16)
ATTACKS: dict[str, PromptAttack] = {
    "token_search": SEARCH,
    # A gradient is worth three queries: there, and twice that back.
    "random words": RandomTokens(n_restarts=1 + SEARCH.steps * (SEARCH.batch_size + 3)),
}
N_PROMPTS = 25


@dataclass(frozen=True)
class Pull:
    """Prompts, and the pictures they are pulled to.

    Args:
        subjects: Whose text encoders are attacked.
    """

    subjects: Subjects

    @property
    def _prompts(self) -> list[str]:
        return [*self.subjects.prompts[:N_PROMPTS]]

    @property
    def _captions(self) -> list[str]:
        return [*calibration_captions(self.subjects.model)[:N_PROMPTS]]

    def _surface(self, family: Family, *, n_levels: int) -> PromptSurface:
        side = self.subjects.base.image_size
        images = calibration_images(self.subjects.model, None, side)[:N_PROMPTS]
        return family.denoising(images, n_levels=n_levels)

    def found(self, family: Family, attack: PromptAttack) -> PromptResult:
        """What an attack makes of the prompts."""
        seeds = sample_seeds(0, range(N_PROMPTS), "pulled")
        budget, surface = TokenBudget(tokens=2), self._surface(family, n_levels=4)
        return attack(surface, DiffusionClassifier(), budget, self._prompts, seeds=seeds)

    @torch.no_grad()
    def error(self, family: Family, texts: list[str]) -> Tensor:
        """Error of denoising the pictures under texts, by noise no attack has seen."""
        seeds = sample_seeds(1, range(N_PROMPTS), "pulled, scored")
        errors = self._surface(family, n_levels=8)(texts, seeds)
        return errors.flatten(1).double().pow(2).mean(1)

    @torch.no_grad()
    def fit(self, family: Family, texts: list[str]) -> Tensor:
        """Agreement of pictures drawn from texts with the captions of the pictures."""
        judge = judge_of(
            self.subjects.model, self.subjects.model / "judge_independent", self.subjects.base
        )
        seeds = sample_seeds(0, range(N_PROMPTS), "pulled, drawn")
        settings = EditSettings(num_inference_steps=8, guidance=3.0)
        return judge.alignment(family.generation(settings)(texts, seeds), self._captions).double()

    def rows(self, name: str) -> list[dict]:
        """One row an attack on one encoder."""
        family = self.subjects.families[name]
        error, fit = self.error(family, self._prompts), self.fit(family, self._prompts)
        way = error - self.error(family, self._captions)
        found = {key: self.found(family, attack) for key, attack in ATTACKS.items()}
        own = {key: result.value - result.clean_value for key, result in found.items()}
        table = []
        for key, result in found.items():
            moved = self.fit(family, [*result.prompts])
            row = {
                "own_gain": bootstrap_mean(own[key].double(), seed=0),
                "gain": bootstrap_mean(error - self.error(family, [*result.prompts]), seed=0),
                "way": bootstrap_mean(way, seed=0),
                "fit": bootstrap_mean(moved, seed=0),
                "fit_gained": bootstrap_difference(moved, fit, seed=0),
                "beyond_chance": bootstrap_difference(own["token_search"], own[key], seed=0),
            }
            queries = {"queries": [float(np.mean(result.queries)), max(result.queries)]}
            numbered = {k: numbers(v) for k, v in row.items()}
            table.append({"attack": key, "subject": name, **numbered, **queries})
        return table


def pulls(subjects: Subjects) -> list[dict]:
    """Every encoder under every attack."""
    pull = Pull(subjects)
    return [row for name in subjects.families for row in pull.rows(name)]
