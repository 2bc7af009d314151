"""Run a plan: attack, round, score, append a row a sample."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loricate.basics.registry import key_of
from loricate.core.attack import AttackResult
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images
from loricate.core.training import Observer
from loricate.evaluation.edit_rule import EditDistance, broken
from loricate.evaluation.plan import Condition, Plan, Trial
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.metrics.latent_drift import LatentDrift
from loricate.metrics.psnr import PSNR
from loricate.metrics.ssim import SSIM
from loricate.records.io import ROWS_FILE, RowLog, write_atomically
from loricate.records.names import NO_ATTACK, NO_OBJECTIVE
from loricate.records.schema import EditRule, SampleRow

__all__ = ["Runner"]

_ADVERSARIAL: Final = "adversarial"


_CLEAN: Final = Condition("pipeline", NO_ATTACK, NO_OBJECTIVE, 0.0, "linf")


@dataclass(frozen=True)
class _Outputs:
    """What a subject makes of the clean pictures of a chunk."""

    latents: Tensor
    edits: Images


@dataclass(frozen=True)
class Runner:
    """Executes a plan on one subject after the other; finished rows are not done again.

    Args:
        plan: What to run.
        pictures: Held-out pictures.
        judge: Feature space of edits.
        base: The undefended model, whose clean outputs clean cost is measured against.
        rule: When an edit is broken.
        out: Run folder; it receives the rows and the adversarial pictures.
        seed: Root seed.
        observe: Told about every batch.
    """

    plan: Plan
    pictures: Pictures
    judge: FeatureSpace
    base: Subject
    rule: EditRule
    out: Path
    seed: int
    observe: Observer

    @cached_property
    def log(self) -> RowLog:
        """Rows of this run, those of an interrupted one included."""
        return RowLog(self.out / ROWS_FILE)

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

    def adversarial(self, subject: Subject, condition: Condition) -> Images | None:
        """Adversarial pictures of a finished condition, or ``None`` where there are none.

        Args:
            subject: The attacked model.
            condition: Attack and radius.
        """
        path = self._path(subject, condition)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as table:
            levels = torch.from_numpy(table["adversarial"])
        return (levels.permute(0, 3, 1, 2).float() / 255).to(self.pictures.images)

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
        clean, base = self._outputs(subject, chunk), self._outputs(self.base, chunk)
        edits = subject.edits(chunk, adversarial, self.plan.edit, self.seed)
        distance = EditDistance.between(self.judge, edits, clean.edits)
        from_base = EditDistance.between(self.judge, edits, base.edits)
        reconstruction = subject.reconstructions(adversarial, seeds)
        return {
            "latent_drift": LatentDrift()(subject.latents(adversarial, seeds), clean.latents),
            "reconstruction_psnr": PSNR()(reconstruction, chunk.images),
            "edit_ssim": distance.ssim,
            "edit_feature_distance": distance.feature,
            "edit_broken": broken(self.rule, distance).float(),
            "edit_broken_from_base": broken(self.rule, from_base).float(),
        }

    def _clean(self, subject: Subject) -> None:
        for chunk in self.pictures.chunks(self.plan.batch_size):
            rows = self._rows(subject, _CLEAN, chunk)
            if not self._has(rows):
                self.log.extend(_filled(rows, self._clean_values(subject, chunk)))

    def _clean_values(self, subject: Subject, chunk: Pictures) -> dict[str, Tensor]:
        own, base = self._outputs(subject, chunk), self._outputs(self.base, chunk)
        reconstruction = subject.reconstructions(chunk.images, chunk.indices)
        distance = EditDistance.between(self.judge, own.edits, base.edits)
        return {
            "latent_drift": LatentDrift()(own.latents, base.latents),
            "reconstruction_psnr": PSNR()(reconstruction, chunk.images),
            "reconstruction_ssim": SSIM()(reconstruction, chunk.images),
            "edit_ssim": distance.ssim,
            "edit_feature_distance": distance.feature,
            "prompt_alignment": self.judge.alignment(own.edits, chunk.prompts),
            "generation_ssim": SSIM()(
                subject.generated(chunk, self.plan.edit, self.seed),
                self.base.generated(chunk, self.plan.edit, self.seed),
            ),
        }

    def _attack(self, subject: Subject, trial: Trial, epsilon: float) -> None:
        condition = trial.condition(epsilon)
        chunks = self.pictures.head(trial.n_images).chunks(self.plan.batch_size)
        rows = [self._rows(subject, condition, chunk) for chunk in chunks]
        path = self._path(subject, condition)
        # A run killed between two chunks has rows whose pictures were lost with it.
        if path.exists() and all(map(self._has, rows)):
            return
        found = [
            self._attack_chunk(subject, trial, epsilon, chunk, rows_of_chunk)
            for chunk, rows_of_chunk in zip(chunks, rows, strict=True)
        ]
        write_atomically(path, _npz(np.concatenate(found)))

    def _attack_chunk(
        self,
        subject: Subject,
        trial: Trial,
        epsilon: float,
        chunk: Pictures,
        rows: Sequence[SampleRow],
    ) -> NDArray[np.uint8]:
        result = self._result(subject, trial, epsilon, chunk)
        if not self._has(rows):
            delta = result.adversarial - chunk.images
            values = self.score(subject, chunk, result.adversarial)
            values["objective"] = result.value
            values["objective_clean"] = result.clean_value
            values["delta_size"] = trial.threat(epsilon).ball.size(delta)
            if result.first is not None:
                values["objective_start"], values["first_gradient"] = result.first
            self.log.extend(_filled(rows, values))
        return _levels(result.adversarial)

    def _result(
        self, subject: Subject, trial: Trial, epsilon: float, chunk: Pictures
    ) -> AttackResult:
        surface = subject.surface(trial.objective, chunk.prompts, self.plan.attacked_edit)
        seeds = sample_seeds(self.seed, chunk.indices, "attack", key_of(type(trial.attack)))
        return trial.attack(
            surface, trial.objective, trial.threat(epsilon), chunk.images, seeds=seeds
        )

    @cached_property
    def _known(self) -> dict[tuple[str, int, int], _Outputs]:
        return {}

    def _outputs(self, subject: Subject, chunk: Pictures) -> _Outputs:
        """Outputs for clean pictures, computed once: every trial compares with them."""
        key = subject.name, chunk.first, len(chunk)
        if key not in self._known:
            latents = subject.latents(chunk.images, chunk.indices)
            edits = subject.edits(chunk, chunk.images, self.plan.edit, self.seed)
            self._known[key] = _Outputs(latents, edits)
        return self._known[key]

    def _rows(self, subject: Subject, condition: Condition, chunk: Pictures) -> list[SampleRow]:
        return [condition.row(subject.name, sample, self.seed) for sample in chunk.indices]

    def _has(self, rows: Sequence[SampleRow]) -> bool:
        return all(row.key in self.log for row in rows)

    def _path(self, subject: Subject, condition: Condition) -> Path:
        words = (condition.attack, condition.objective, condition.norm)
        name = "-".join((*words, f"{condition.epsilon * 255:g}"))
        return self.out / _ADVERSARIAL / subject.name / f"{name}.npz"


def _levels(images: Images) -> NDArray[np.uint8]:
    levels = (images * 255).round().byte().permute(0, 2, 3, 1)
    return np.asarray(levels.cpu().numpy(), dtype=np.uint8)


def _npz(adversarial: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, adversarial=adversarial)
    return buffer.getvalue()


def _filled(rows: Sequence[SampleRow], values: dict[str, Tensor]) -> list[SampleRow]:
    columns = {name: column.cpu().double().tolist() for name, column in values.items()}
    return [
        row.model_copy(update={"values": {name: column[i] for name, column in columns.items()}})
        for i, row in enumerate(rows)
    ]
