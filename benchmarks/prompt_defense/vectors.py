"""Attacks that no text stands for: free vectors before the prompt, and balls around its own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.attacks.soft_prompt import SoftPrompt
from loricate.core.against import Against
from loricate.core.attack import Attack
from loricate.core.balls import L2
from loricate.core.family import Family
from loricate.core.generators import sample_seeds
from loricate.core.objective import Objective
from loricate.core.threat import ThreatModel
from loricate.evaluation.statistics import bootstrap_mean, bootstrap_ratio
from loricate.metrics.embedding_drift import EmbeddingDrift
from loricate.objectives.embedding_shift import EmbeddingShift
from loricate.records.names import BASE
from prompt_defense.figures import numbers
from prompt_defense.subjects import Subjects

STEPS = 50


@dataclass(frozen=True)
class Ball:
    """An attack on the embeddings of a prompt, start, end and padding included.

    Args:
        attack: What moves them.
        share: Radius over all places together, in mean lengths of vocabulary vectors.
    """

    attack: Attack
    share: float

    def values(
        self, family: Family, prompts: tuple[str, ...], objective: Objective, seeds: list[int]
    ) -> Tensor:
        """The objective of each prompt."""
        surface = family.text_encoder()
        radius = self.share * float(surface.vocabulary.detach().norm(dim=1).mean())
        threat, start = ThreatModel(ball=L2(epsilon=radius)), surface.embed(prompts).detach()
        return self.attack(surface.embeddings(), objective, threat, start, seeds=seeds).value


@dataclass(frozen=True)
class Soft:
    """Free vectors in front of the prompt.

    Args:
        attack: What places them.
    """

    attack: SoftPrompt

    def values(
        self, family: Family, prompts: tuple[str, ...], objective: Objective, seeds: list[int]
    ) -> Tensor:
        """The objective of each prompt."""
        return self.attack(family.text_encoder(), objective, prompts, seeds=seeds).value


ATTACKS: dict[str, Ball | Soft] = {
    "random vectors, radius 0.3": Ball(RandomNoise(), 0.3),
    "PGD-50, radius 0.1": Ball(PGD(steps=STEPS), 0.1),
    "PGD-50, radius 0.3": Ball(PGD(steps=STEPS), 0.3),
    "PGD-50, radius 1": Ball(PGD(steps=STEPS), 1.0),
    "soft_prompt, 2 free vectors": Soft(SoftPrompt(tokens=2, inner=PGD(steps=STEPS))),
}


def shifts(subjects: Subjects) -> list[dict]:
    """How far attacked states are from the base's clean ones, in spreads."""
    prompts = subjects.prompts
    with torch.no_grad():
        clean = subjects.base.text_encoder()(prompts, [0] * len(prompts))
    spread = EmbeddingDrift.spread_of(clean)
    objective = Against(objective=EmbeddingShift(), given=clean)
    seeds = sample_seeds(0, range(len(prompts)), "vectors")
    table = []
    for name, attack in ATTACKS.items():
        columns = {
            subject: attack.values(family, prompts, objective, seeds).double().sqrt() / spread
            for subject, family in subjects.families.items()
        }
        for subject, column in columns.items():
            factor = bootstrap_ratio(columns[BASE], column, seed=0)
            row = {"shift": bootstrap_mean(column, seed=0), "factor": factor}
            table.append(
                {"attack": name, "subject": subject, **{k: numbers(v) for k, v in row.items()}}
            )
    return table
