"""Run a plan: attack, round, score, append a row a sample."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from loricate.attacks.random_noise import RandomNoise
from loricate.basics.registry import key_of
from loricate.core.attack import AttackResult
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images
from loricate.core.training import Observer
from loricate.evaluation.edit_rule import EditDistance, broken
from loricate.evaluation.plan import Plan, Trial
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.metrics.latent_drift import LatentDrift
from loricate.metrics.psnr import PSNR
from loricate.metrics.ssim import SSIM
from loricate.records.io import RowLog
from loricate.records.names import NO_ATTACK
from loricate.records.schema import EditRule, SampleRow

__all__ = ["Runner", "adversarial_path"]


@dataclass(frozen=True)
class Runner:
    """Executes a plan on one subject after the other; finished rows are not done again.

    Args:
        plan: What to run.
        pictures: Held-out pictures.
        judge: Feature space of edits.
        base: The undefended model, whose clean outputs clean cost is measured against.
        rule: When an edit is broken.
        log: Where rows go.
        folder: Where adversarial pictures are kept.
        seed: Root seed.
        observe: Told about every batch.
    """

    plan: Plan
    pictures: Pictures
    judge: FeatureSpace
    base: Subject
    rule: EditRule
    log: RowLog
    folder: Path
    seed: int
    observe: Observer

    def run(self, subjects: Sequence[Subject]) -> None:
        """Clean rows, then every trial at every radius, for each subject.

        Args:
            subjects: Models to evaluate, the base among them.
        """
        jobs = [
            (subject, trial, float(epsilon))
            for subject in subjects
            for trial in self.plan.trials
            if trial.includes(subject.name)
            for epsilon in trial.epsilons
        ]
        for subject in subjects:
            self._clean(subject)
        for done, (subject, trial, epsilon) in enumerate(jobs):
            self.observe("evaluate", done, len(jobs), {})
            self._attack(subject, trial, epsilon)
        self.observe("evaluate", len(jobs), len(jobs), {})

    def _clean(self, subject: Subject) -> None:
        for chunk in self.pictures.chunks(self.plan.batch_size):
            rows = [self._row(subject, "pipeline", NO_ATTACK, "none", 0.0, "linf", i, {}) for i in chunk.indices]
            if all(row.key in self.log for row in rows):
                continue
            values = self._clean_values(subject, chunk)
            self.log.extend(_with(rows, values))

    def _clean_values(self, subject: Subject, chunk: Pictures) -> dict[str, Tensor]:
        seeds = chunk.indices
        latents, base_latents = (s.latents(chunk.images, seeds) for s in (subject, self.base))
        edits, base_edits = (
            s.edits(chunk, chunk.images, self.plan.edit, self.seed) for s in (subject, self.base)
        )
        reconstruction = subject.reconstructions(chunk.images, seeds)
        prompts = list(chunk.prompts)
        return {
            "latent_drift": LatentDrift()(latents, base_latents),
            "reconstruction_psnr": PSNR()(reconstruction, chunk.images),
            "reconstruction_ssim": SSIM()(reconstruction, chunk.images),
            "edit_ssim": SSIM()(edits, base_edits),
            "edit_feature_distance": EditDistance.between(self.judge, edits, base_edits).feature,
            "prompt_alignment": self.judge.alignment(edits, prompts),
        }

    def _attack(self, subject: Subject, trial: Trial, epsilon: float) -> None:
        pictures = self.pictures.head(trial.n_images)
        path = adversarial_path(self.folder, subject.name, trial, epsilon)
        kept: list[np.ndarray] = []
        for chunk in pictures.chunks(self.plan.batch_size):
            rows = [self._row(subject, *_address(trial), epsilon, trial.norm, i, {}) for i in chunk.indices]
            if all(row.key in self.log for row in rows) and path.exists():
                continue
            result = self._result(subject, trial, epsilon, chunk)
            values = self.score(subject, chunk, result.adversarial)
            values["objective"] = result.value
            values["objective_clean"] = result.clean_value
            values["delta_size"] = trial.threat(epsilon).ball.size(result.adversarial - chunk.images)
            values["first_gradient"] = torch.full((len(chunk),), _first_gradient(result))
            kept.append(_levels(result.adversarial))
            self.log.extend(_with(rows, values))
        if kept:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, adversarial=np.concatenate(kept))

    def _result(
        self, subject: Subject, trial: Trial, epsilon: float, chunk: Pictures
    ) -> AttackResult:
        surface = subject.surface(trial.objective, chunk.prompts, self.plan.attacked_edit)
        seeds = sample_seeds(self.seed, chunk.indices, "attack", key_of(type(trial.attack)))
        return trial.attack(
            surface, trial.objective, trial.threat(epsilon), chunk.images, seeds=seeds
        )

    def score(self, subject: Subject, chunk: Pictures, adversarial: Images) -> dict[str, Tensor]:
        """What adversarial pictures do to a subject, by noise the attack has not seen.

        Args:
            subject: The attacked model.
            chunk: The clean pictures.
            adversarial: The attacked ones.

        Returns:
            Values by metric, one a sample.
        """
        seeds = chunk.indices
        clean_latents = subject.latents(chunk.images, seeds)
        clean_edits = subject.edits(chunk, chunk.images, self.plan.edit, self.seed)
        edits = subject.edits(chunk, adversarial, self.plan.edit, self.seed)
        distance = EditDistance.between(self.judge, edits, clean_edits)
        base_edits = self.base.edits(chunk, chunk.images, self.plan.edit, self.seed)
        from_base = EditDistance.between(self.judge, edits, base_edits)
        return {
            "latent_drift": LatentDrift()(subject.latents(adversarial, seeds), clean_latents),
            "reconstruction_psnr": PSNR()(
                subject.reconstructions(adversarial, seeds), chunk.images
            ),
            "edit_ssim": distance.ssim,
            "edit_feature_distance": distance.feature,
            "edit_broken": broken(self.rule, distance).float(),
            "edit_broken_from_base": broken(self.rule, from_base).float(),
        }

    def _row(
        self,
        subject: Subject,
        surface: str,
        attack: str,
        objective: str,
        epsilon: float,
        norm: str,
        sample: int,
        values: dict[str, float],
    ) -> SampleRow:
        return SampleRow(
            subject=subject.name,
            surface=surface,
            attack=attack,
            objective=objective,
            epsilon=epsilon,
            norm=norm,
            seed=self.seed,
            sample=sample,
            values=values,
        )


def adversarial_path(folder: Path, subject: str, trial: Trial, epsilon: float) -> Path:
    """Where the adversarial pictures of a trial are kept."""
    surface, attack, objective = _address(trial)
    return folder / subject / f"{attack}-{objective}-{trial.norm}-{epsilon * 255:g}.npz"


def _address(trial: Trial) -> tuple[str, str, str]:
    """Surface, attack and objective as the record names them."""
    objective = trial.objective
    attack = key_of(type(trial.attack))
    if isinstance(trial.attack, RandomNoise):
        return "pipeline", attack, "none"
    return objective.surface_kind, attack, key_of(type(objective))


def _first_gradient(result: AttackResult) -> float:
    return result.history[0][1] if result.history else float("nan")


def _levels(images: Images) -> np.ndarray:
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _with(rows: Iterable[SampleRow], values: dict[str, Tensor]) -> list[SampleRow]:
    columns = {name: column.double().cpu().tolist() for name, column in values.items()}
    return [
        row.model_copy(update={"values": {name: column[i] for name, column in columns.items()}})
        for i, row in enumerate(rows)
    ]
