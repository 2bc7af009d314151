"""Run a plan: attack, round, score, append a row a sample."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loricate.basics.errors import ConfigError, ConfigProblem
from loricate.basics.files import write_atomically
from loricate.basics.registry import key_of
from loricate.core.attack import AttackResult
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images
from loricate.core.training import Observer
from loricate.evaluation.edit_rule import EditDistance, Edits, broken
from loricate.evaluation.plan import Plan, Trial
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.evaluation.workers import Workers
from loricate.metrics.latent_drift import LatentDrift
from loricate.metrics.psnr import PSNR
from loricate.metrics.ssim import SSIM
from loricate.records.condition import CLEAN, Condition
from loricate.records.io import ROWS_FILE, RowLog, read_rows
from loricate.records.schema import EditRule, SampleRow

__all__ = ["WHOLE", "Runner", "Shard"]

_ADVERSARIAL: Final = "adversarial"


@dataclass(frozen=True)
class _Outputs:
    """What a subject makes of the clean pictures of a chunk."""

    latents: Tensor
    edits: Edits


@dataclass(frozen=True)
class _Job:
    """A trial at one radius on one subject, for some pictures."""

    subject: Subject
    trial: Trial
    epsilon: float
    chunk: Pictures

    @property
    def condition(self) -> Condition:
        return self.trial.condition(self.epsilon)


@final
@dataclass(frozen=True)
class Shard:
    """A share of the pictures: every ``count``-th batch, from the ``index``-th on.

    Args:
        index: Which share, from 0.
        count: How many there are.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The share written as ``0/4``.

        Args:
            text: Index and count.

        Raises:
            ConfigError: It is nothing of the kind.
        """
        index, _, count = text.partition("/")
        if index.isdecimal() and count.isdecimal() and int(index) < int(count):
            return cls(int(index), int(count))
        expected = "a share such as 0/4, 1/4, 2/4 or 3/4"
        raise ConfigError(ConfigProblem(key="shard", expected=expected, got=text))

    @property
    def rows_file(self) -> str:
        """Where its rows go, so that no two processes write one file."""
        return f"rows-{self.index}-of-{self.count}.jsonl"


WHOLE: Final = Shard(0, 1)
_SHARDS: Final = "rows-*-of-*.jsonl"


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
        shard: Which share of the pictures, for several processes on one folder.
    """

    plan: Plan
    pictures: Pictures
    judge: FeatureSpace
    base: Subject
    rule: EditRule
    out: Path
    seed: int
    observe: Observer
    shard: Shard = WHOLE

    @cached_property
    def log(self) -> RowLog:
        """Rows of this run, those of an interrupted one included, and of its shards."""
        if self.shard != WHOLE:
            return RowLog(self.out / self.shard.rows_file)
        log = RowLog(self.out / ROWS_FILE)
        for path in sorted(self.out.glob(_SHARDS)):
            log.extend(read_rows(path))
        return log

    def run(self, subjects: Sequence[Subject]) -> None:
        """Clean rows, then every trial at every radius, for each subject.

        Args:
            subjects: Models to evaluate, the base among them.
        """
        jobs = [
            _Job(subject, trial, float(epsilon), chunk)
            for subject in subjects
            for trial in self.plan.trials
            if trial.includes(subject.name)
            for epsilon in trial.epsilons
            for chunk in self._chunks(trial.n_images)
        ]
        workers = Workers.suited_to(self.pictures.images)
        for each in ([self.base], [s for s in subjects if s is not self.base]):
            clean = [(subject, chunk) for subject in each for chunk in self._chunks(None)]
            for rows in workers.map(self._clean, clean):
                self.log.extend(rows)
        self.observe("evaluate", 0, len(jobs), {})
        for done, rows in enumerate(workers.map(self._attack, jobs), start=1):
            self.log.extend(rows)
            self.observe("evaluate", done, len(jobs), {})

    def adversarial(self, subject: Subject, condition: Condition) -> Images | None:
        """Adversarial pictures of a finished condition, or ``None`` where there are none.

        Args:
            subject: The attacked model.
            condition: Attack and radius.
        """
        parts = []
        for chunk in self.pictures.chunks(self.plan.batch_size):
            path = self._path(subject, condition, chunk.first)
            if not path.exists():
                break
            with np.load(path, allow_pickle=False) as table:
                parts.append(torch.from_numpy(table["adversarial"]))
        if not parts:
            return None
        levels = torch.cat(parts)
        return (levels.permute(0, 3, 1, 2).float() / 255).to(self.pictures.images)

    def similarities(
        self, subject: Subject, condition: Condition, pictures: Pictures
    ) -> list[float]:
        """How much the attacked edits of a finished condition are like the clean ones.

        Args:
            subject: The attacked model.
            condition: Attack and radius.
            pictures: Some of those that were attacked.
        """
        found = {
            row.sample: row.values["edit_ssim"]
            for row in self.log
            if row.subject == subject.name
            and _file_name(Condition.of(row)) == _file_name(condition)
        }
        return [found[index] for index in pictures.indices]

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
        edits = self._edits(subject, chunk, adversarial)
        distance = EditDistance.between(edits, clean.edits)
        from_base = EditDistance.between(edits, base.edits)
        reconstruction = subject.reconstructions(adversarial, seeds)
        return {
            "latent_drift": LatentDrift()(subject.latents(adversarial, seeds), clean.latents),
            "reconstruction_psnr": PSNR()(reconstruction, chunk.images),
            "edit_ssim": distance.ssim,
            "edit_feature_distance": distance.feature,
            "edit_broken": broken(self.rule, distance).float(),
            "edit_broken_from_base": broken(self.rule, from_base).float(),
        }

    def _chunks(self, n_images: int | None) -> list[Pictures]:
        """Batches of this shard among the first pictures."""
        chunks = self.pictures.head(n_images).chunks(self.plan.batch_size)
        return chunks[self.shard.index :: self.shard.count]

    def _clean(self, job: tuple[Subject, Pictures]) -> list[SampleRow]:
        subject, chunk = job
        rows = self._rows(subject, CLEAN, chunk)
        return [] if self._has(rows) else _filled(rows, self._clean_values(subject, chunk))

    def _clean_values(self, subject: Subject, chunk: Pictures) -> dict[str, Tensor]:
        own, base = self._outputs(subject, chunk), self._outputs(self.base, chunk)
        reconstruction = subject.reconstructions(chunk.images, chunk.indices)
        distance = EditDistance.between(own.edits, base.edits)
        generated = self._generated(subject, chunk), self._generated(self.base, chunk)
        return {
            "latent_drift": LatentDrift()(own.latents, base.latents),
            "reconstruction_psnr": PSNR()(reconstruction, chunk.images),
            "reconstruction_ssim": SSIM()(reconstruction, chunk.images),
            "edit_ssim": distance.ssim,
            "edit_feature_distance": distance.feature,
            "prompt_alignment": self.judge.alignment(own.edits.images, chunk.prompts),
            "generation_ssim": SSIM()(*generated),
        }

    def _attack(self, job: _Job) -> list[SampleRow]:
        """Rows of a job; its pictures are written first, so that rows never lack them."""
        rows = self._rows(job.subject, job.condition, job.chunk)
        path = self._path(job.subject, job.condition, job.chunk.first)
        if path.exists() and self._has(rows):
            return []
        result = self._result(job)
        filled = _filled(rows, self._values(job, result))
        write_atomically(path, _npz(_levels(result.adversarial)))
        return filled

    def _values(self, job: _Job, result: AttackResult) -> dict[str, Tensor]:
        values = self.score(job.subject, job.chunk, result.adversarial)
        delta = result.adversarial - job.chunk.images
        values["objective"] = result.value
        values["objective_clean"] = result.clean_value
        values["delta_size"] = job.trial.threat(job.epsilon).ball.size(delta)
        if result.first is not None:
            values["objective_start"], values["first_gradient"] = result.first
        return values

    def _result(self, job: _Job) -> AttackResult:
        trial, subject, chunk = job.trial, job.subject, job.chunk
        surface = subject.surface(trial.objective, chunk.prompts, self.plan.attacked_edit)
        seeds = sample_seeds(self.seed, chunk.indices, "attack", key_of(type(trial.attack)))
        threat = trial.threat(job.epsilon)
        return trial.attack(surface, trial.objective, threat, chunk.images, seeds=seeds)

    @cached_property
    def _known(self) -> dict[tuple[str, int, int], _Outputs]:
        return {}

    @cached_property
    def _generated_by_base(self) -> dict[int, Images]:
        return {}

    def _outputs(self, subject: Subject, chunk: Pictures) -> _Outputs:
        """Outputs for clean pictures, computed once: every trial compares with them."""
        key = subject.name, chunk.first, len(chunk)
        if key not in self._known:
            latents = subject.latents(chunk.images, chunk.indices)
            self._known[key] = _Outputs(latents, self._edits(subject, chunk, chunk.images))
        return self._known[key]

    def _generated(self, subject: Subject, chunk: Pictures) -> Images:
        """Pictures from prompts; those of the base are kept, as every subject asks for them."""
        if subject is not self.base:
            return subject.generated(chunk, self.plan.edit, self.seed)
        if chunk.first not in self._generated_by_base:
            images = subject.generated(chunk, self.plan.edit, self.seed)
            self._generated_by_base[chunk.first] = images
        return self._generated_by_base[chunk.first]

    def _edits(self, subject: Subject, chunk: Pictures, images: Images) -> Edits:
        return Edits.seen_by(self.judge, subject.edits(chunk, images, self.plan.edit, self.seed))

    def _rows(self, subject: Subject, condition: Condition, chunk: Pictures) -> list[SampleRow]:
        return [
            SampleRow(
                subject=subject.name,
                seed=self.seed,
                sample=sample,
                values={},
                **asdict(condition),
            )
            for sample in chunk.indices
        ]

    def _has(self, rows: Sequence[SampleRow]) -> bool:
        return all(row.key in self.log for row in rows)

    def _path(self, subject: Subject, condition: Condition, first: int) -> Path:
        folder = self.out / _ADVERSARIAL / subject.name / _file_name(condition)
        return folder / f"{first:06d}.npz"


def _file_name(condition: Condition) -> str:
    words = (condition.attack, condition.objective, condition.norm, condition.variant)
    return "-".join((*filter(None, words), f"{condition.epsilon * 255:g}"))


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
