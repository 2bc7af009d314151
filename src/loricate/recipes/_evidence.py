"""From subjects to everything a record needs: rows, aggregates, checks, pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.core.balls import Linf
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images
from loricate.core.threat import ThreatModel
from loricate.core.training import Observer
from loricate.evaluation.aggregates import aggregate
from loricate.evaluation.checks import curve_check, row_checks, transfer_check
from loricate.evaluation.edit_rule import calibrate
from loricate.evaluation.paired import compare
from loricate.evaluation.plan import Condition, Plan
from loricate.evaluation.runner import Runner, Shard
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.evaluation.workers import Workers
from loricate.objectives.latent_shift import LatentShift
from loricate.records.io import write_blob
from loricate.records.names import NO_ATTACK, RANDOM_NOISE
from loricate.records.schema import Aggregate, Blob, Check, EditRule, SampleRow

__all__ = ["Evidence", "attack_share", "gather"]

_SHOWN = 6
_AT_THRESHOLD = 3
_TINY = 1e-9


@dataclass(frozen=True)
class Evidence:
    """What was measured.

    Args:
        rule: When an edit counts as broken.
        aggregates: Numbers over samples.
        checks: Sanity flags.
        blobs: Pictures for the report.
    """

    rule: EditRule
    aggregates: tuple[Aggregate, ...]
    checks: tuple[Check, ...]
    blobs: tuple[Blob, ...]


def attack_share(
    subjects: Sequence[Subject],
    judge: FeatureSpace,
    pictures: Pictures,
    plan: Plan,
    out: Path,
    shard: Shard,
    *,
    seed: int,
    observe: Observer,
) -> None:
    """Rows and attacked pictures of one share; ``gather`` on the same folder takes them up.

    Args:
        subjects: Models, the base first.
        judge: Feature space of edits.
        pictures: Held-out pictures.
        plan: Attacks and radii.
        out: Run folder, shared by all shares.
        shard: Which share.
        seed: Root seed.
        observe: Told about progress.
    """
    base, pictures = subjects[0], pictures.head(plan.n_images)
    rule = calibrate(base, judge, pictures, plan, seed)
    Runner(plan, pictures, judge, base, rule, out, seed, observe, shard).run(subjects)


def gather(
    subjects: Sequence[Subject],
    judge: FeatureSpace,
    pictures: Pictures,
    plan: Plan,
    out: Path,
    *,
    seed: int,
    observe: Observer,
) -> Evidence:
    """Attack every subject as planned, and draw the conclusions that need no opinion.

    Args:
        subjects: Models, the base first.
        judge: Feature space of edits.
        pictures: Held-out pictures.
        plan: Attacks and radii.
        out: Run folder; finished rows in it are kept.
        seed: Root seed.
        observe: Told about progress.

    Returns:
        The evidence.
    """
    base = subjects[0]
    pictures = pictures.head(plan.n_images)
    rule = calibrate(base, judge, pictures, plan, seed)
    runner = Runner(plan, pictures, judge, base, rule, out, seed, observe)
    runner.run(subjects)
    rows = tuple(runner.log)
    aggregates = aggregate(rows, seed) + compare(rows, seed)
    checks = [c for s in subjects for c in row_checks(rows, aggregates, s.name)]
    checks += _probes(subjects, runner)
    blobs = _rows_of_pictures(subjects, runner, out) + _threshold_pictures(runner, out)
    return Evidence(rule, aggregates, tuple(checks), tuple(blobs))


def _probes(subjects: Sequence[Subject], runner: Runner) -> list[Check]:
    """Checks that need attacks of their own: more steps, and transfer from the base."""
    lengths = sorted(runner.plan.probe_steps)
    if not lengths:
        return []
    pictures = runner.pictures.head(runner.plan.n_probed)
    # The longest first: they decide how long the others may take beside them.
    jobs = [(subject, steps) for steps in reversed(lengths) for subject in subjects[:2]]
    results = Workers.suited_to(pictures.images).map(
        lambda job: _probed(*job, pictures, runner), jobs
    )
    found = {(s.name, steps): result for (s, steps), result in zip(jobs, results, strict=True)}
    checks = [
        curve_check(s.name, {steps: float(found[s.name, steps][1].mean()) for steps in lengths})
        for s in subjects[:2]
    ]
    if len(subjects) > 1:
        base, target = subjects[:2]
        images, _ = found[base.name, lengths[-1]]
        moved = _drift(target, pictures, images, runner)
        _, white_box = found[target.name, lengths[-1]]
        checks.append(transfer_check(target.name, moved.tolist(), white_box.tolist()))
    return checks


def _probed(
    subject: Subject, steps: int, pictures: Pictures, runner: Runner
) -> tuple[Images, Tensor]:
    """Adversarial pictures after so many steps, and the latent drift they cause."""
    objective, threat = LatentShift(), ThreatModel(ball=Linf(epsilon=runner.plan.epsilon))
    parts = []
    for chunk in pictures.chunks(runner.plan.batch_size):
        surface = subject.surface(objective, chunk.prompts, runner.plan.attacked_edit)
        seeds = sample_seeds(runner.seed, chunk.indices, "probe")
        result = PGD(steps=steps)(surface, objective, threat, chunk.images, seeds=seeds)
        parts.append(result.adversarial)
    adversarial = torch.cat(parts)
    return adversarial, _drift(subject, pictures, adversarial, runner)


def _drift(subject: Subject, pictures: Pictures, attacked: Images, runner: Runner) -> Tensor:
    chunks = pictures.chunks(runner.plan.batch_size)
    parts = attacked.split([len(chunk) for chunk in chunks])
    return torch.cat([runner.drift(subject, *pair) for pair in zip(chunks, parts, strict=True)])


def _rows_of_pictures(subjects: Sequence[Subject], runner: Runner, out: Path) -> list[Blob]:
    """Clean, attacked, magnified difference, and the edits: the strongest attack on each model."""
    if len(subjects) < 2:
        return []
    pictures = runner.pictures.head(_SHOWN)
    magnify = 0.5 / max(float(runner.plan.epsilon), _TINY)
    columns = _columns(subjects[0], subjects[1], pictures, magnify, runner)
    return [
        write_blob(
            out,
            f"row/{i}/{column}",
            _png(images[i]),
            caption=prompt,
            data={"magnified": magnify} if column == "perturbation" else {},
        )
        for i, prompt in enumerate(pictures.prompts)
        for column, images in columns.items()
    ]


def _columns(
    base: Subject, hardened: Subject, pictures: Pictures, magnify: float, runner: Runner
) -> dict[str, Images]:
    on_base, on_hardened = (_strongest(s, pictures, runner) for s in (base, hardened))
    return {
        "clean": pictures.images,
        "attacked": on_base,
        "perturbation": (0.5 + magnify * (on_base - pictures.images)).clamp(0, 1),
        "edit_clean_base": _edits(base, pictures, pictures.images, runner),
        "edit_clean_hardened": _edits(hardened, pictures, pictures.images, runner),
        "edit_attacked_base": _edits(base, pictures, on_base, runner),
        "edit_attacked_hardened": _edits(hardened, pictures, on_hardened, runner),
    }


def _strongest(subject: Subject, pictures: Pictures, runner: Runner) -> Images:
    """For each picture, the attack that left the least similar edit."""
    best = pictures.images.clone()
    lowest = torch.full((len(pictures),), float("inf"))
    for trial in runner.plan.trials:
        condition = trial.condition(runner.plan.epsilon)
        images = runner.adversarial(subject, condition)
        is_noise = isinstance(trial.attack, RandomNoise)
        if is_noise or images is None or len(images) < len(pictures):
            continue
        similarity = torch.tensor(runner.similarities(subject, condition, pictures))
        better = similarity < lowest
        lowest = torch.where(better, similarity, lowest)
        best[better] = images[: len(pictures)][better]
    return best


def _threshold_pictures(runner: Runner, out: Path) -> list[Blob]:
    """Edits by the base that are just about broken: what the rule's number looks like."""
    limit = min(runner.rule.ssim_threshold, runner.rule.visible_ssim)
    nearest = sorted(_attacked_rows(runner), key=lambda row: abs(row.values["edit_ssim"] - limit))
    return [
        blob
        for i, row in enumerate(nearest[:_AT_THRESHOLD])
        for blob in _threshold_pair(f"threshold/{i}", row, runner, out)
    ]


def _threshold_pair(name: str, row: SampleRow, runner: Runner, out: Path) -> list[Blob]:
    base, picture = runner.base, runner.pictures.only(row.sample)
    attacked = runner.adversarial(base, Condition.of_row(row))
    assert attacked is not None  # the rows of a trial are complete only with its pictures
    at = row.sample - runner.pictures.first
    data = {
        "ssim": row.values["edit_ssim"],
        "feature_distance": row.values["edit_feature_distance"],
    }
    pair = {
        "edit_clean": _edits(base, picture, picture.images, runner),
        "edit_attacked": _edits(base, picture, attacked[at : at + 1], runner),
    }
    return [
        write_blob(out, f"{name}/{column}", _png(edits[0]), caption=picture.prompts[0], data=data)
        for column, edits in pair.items()
    ]


def _attacked_rows(runner: Runner) -> list[SampleRow]:
    return [
        row
        for row in runner.log
        if row.subject == runner.base.name
        and row.attack not in (NO_ATTACK, RANDOM_NOISE)
        and row.objective == "latent_shift"
    ]


def _edits(subject: Subject, pictures: Pictures, images: Images, runner: Runner) -> Images:
    return subject.edits(pictures, images, runner.plan.edit, runner.seed)


def _png(image: Tensor) -> bytes:
    levels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()
