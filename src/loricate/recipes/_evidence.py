"""From subjects to everything a record needs: rows, aggregates, checks, pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from loricate.attacks.random_noise import RandomNoise
from loricate.core.shapes import Images
from loricate.core.training import Observer
from loricate.evaluation.aggregates import aggregate
from loricate.evaluation.battery import battery
from loricate.evaluation.checks import row_checks
from loricate.evaluation.edit_rule import calibrate
from loricate.evaluation.paired import compare
from loricate.evaluation.plan import Plan
from loricate.evaluation.runner import Runner, Shard
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.records.condition import Condition
from loricate.records.io import write_blob
from loricate.records.names import HARDENED, NO_ATTACK, RANDOM_NOISE, stem
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
    if plan.battery is not None:
        judged = _judged(subjects)
        checks += battery(base, judged, pictures, plan.battery, seed=seed, observe=observe)
    blobs = _rows_of_pictures(subjects, runner, out) + _threshold_pictures(runner, out)
    return Evidence(rule, aggregates, tuple(checks), tuple(blobs))


def _judged(subjects: Sequence[Subject]) -> Subject:
    """The hardened model, the first of its trainings where there are several, or else the base."""
    return next((s for s in subjects if stem(s.name) == HARDENED), subjects[0])


def _rows_of_pictures(subjects: Sequence[Subject], runner: Runner, out: Path) -> list[Blob]:
    """Clean, attacked, magnified difference, and the edits: the strongest attack on each model."""
    base, judged = subjects[0], _judged(subjects)
    if judged is base:
        return []
    pictures = runner.pictures.head(_SHOWN)
    magnify = 0.5 / max(float(runner.plan.epsilon), _TINY)
    columns = _columns(base, judged, pictures, magnify, runner)
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
    attacked = runner.adversarial(base, Condition.of(row))
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
