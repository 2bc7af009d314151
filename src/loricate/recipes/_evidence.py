"""From subjects to everything a record needs: rows, aggregates, checks, pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from loricate.attacks.pgd import PGD
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images
from loricate.core.training import Observer
from loricate.evaluation.aggregates import aggregate
from loricate.evaluation.checks import curve_check, row_checks, transfer_check
from loricate.evaluation.edit_rule import EditDistance, calibrate
from loricate.evaluation.plan import Plan, Trial
from loricate.evaluation.runner import Runner, adversarial_path
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.objectives.latent_shift import LatentShift
from loricate.records.io import RowLog, write_blob
from loricate.records.names import NO_ATTACK, RANDOM_NOISE
from loricate.records.schema import Aggregate, Blob, Check, EditRule, SampleRow

__all__ = ["ROWS", "Evidence", "gather"]

ROWS = "rows.jsonl"
_ADVERSARIAL = "adversarial"
_SHOWN = 6
_AT_THRESHOLD = 3
_PROBE_STEPS = (5, 25, 50)
_PROBED = 32


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
    log = RowLog(out / ROWS)
    runner = Runner(plan, pictures, judge, base, rule, log, out / _ADVERSARIAL, seed, observe)
    runner.run(subjects)
    rows = tuple(log)
    aggregates = aggregate(rows, seed)
    checks = [c for s in subjects for c in row_checks(rows, aggregates, s.name)]
    checks += _probes(subjects, runner)
    blobs = _rows_of_pictures(subjects, runner, out) + _threshold_pictures(runner, out)
    return Evidence(rule, aggregates, tuple(checks), tuple(blobs))


def _probes(subjects: Sequence[Subject], runner: Runner) -> list[Check]:
    """Checks that need attacks of their own: more steps, and transfer from the base."""
    pictures = runner.pictures.head(_PROBED)
    epsilon = float(runner.plan.epsilon)
    checks, by_steps = [], {}
    for subject in subjects[:2]:
        found = {}
        for steps in _PROBE_STEPS:
            trial = Trial(attack=PGD(steps=steps), objective=LatentShift(), epsilons=(epsilon,))
            found[steps] = _attacked(subject, trial, pictures, runner)
        by_steps[subject.name] = found
        drifts = {steps: float(drift.mean()) for steps, (_, drift) in found.items()}
        checks.append(curve_check(subject.name, drifts))
    if len(subjects) > 1:
        attacked, target = subjects[0].name, subjects[1]
        most = max(_PROBE_STEPS)
        moved = runner.score(target, pictures, by_steps[attacked][most][0])["latent_drift"]
        white_box = by_steps[target.name][most][1]
        checks.append(transfer_check(target.name, moved.tolist(), white_box.tolist()))
    return checks


def _attacked(
    subject: Subject, trial: Trial, pictures: Pictures, runner: Runner
) -> tuple[Images, Tensor]:
    surface = subject.surface(trial.objective, pictures.prompts, runner.plan.attacked_edit)
    seeds = sample_seeds(runner.seed, pictures.indices, "probe")
    threat = trial.threat(float(trial.epsilons[0]))
    result = trial.attack(surface, trial.objective, threat, pictures.images, seeds=seeds)
    drift = runner.score(subject, pictures, result.adversarial)["latent_drift"]
    return result.adversarial, drift


def _rows_of_pictures(subjects: Sequence[Subject], runner: Runner, out: Path) -> list[Blob]:
    """Clean, attacked, magnified difference, and the edits: the strongest attack on each model."""
    if len(subjects) < 2:
        return []
    base, hardened = subjects[:2]
    pictures = runner.pictures.head(_SHOWN)
    on_base, on_hardened = (_strongest(s, pictures, runner) for s in (base, hardened))
    edits = {
        "edit_clean_base": _edits(base, pictures, pictures.images, runner),
        "edit_attacked_base": _edits(base, pictures, on_base, runner),
        "edit_attacked_hardened": _edits(hardened, pictures, on_hardened, runner),
    }
    magnify = 0.5 / float(runner.plan.epsilon)
    columns = {
        "clean": pictures.images,
        "attacked": on_base,
        "perturbation": (0.5 + magnify * (on_base - pictures.images)).clamp(0, 1),
        **edits,
    }
    blobs = []
    for i, prompt in enumerate(pictures.prompts):
        for column, images in columns.items():
            data = {"magnified": magnify} if column == "perturbation" else {}
            name = f"row/{i}/{column}"
            blobs.append(write_blob(out, name, _png(images[i]), caption=prompt, data=data))
    return blobs


def _strongest(subject: Subject, pictures: Pictures, runner: Runner) -> Images:
    """For each picture, the attack that left the least similar edit."""
    epsilon = float(runner.plan.epsilon)
    best, lowest = pictures.images.clone(), torch.full((len(pictures),), float("inf"))
    for trial in runner.plan.trials:
        path = adversarial_path(runner.folder, subject.name, trial, epsilon)
        if not path.exists() or RANDOM_NOISE in path.name:
            continue
        with np.load(path, allow_pickle=False) as table:
            levels = table["adversarial"][: len(pictures)]
        if len(levels) < len(pictures):
            continue
        images = torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255
        similarity = runner.score(subject, pictures, images)["edit_ssim"]
        better = similarity < lowest
        lowest = torch.where(better, similarity, lowest)
        best[better] = images[better]
    return best


def _threshold_pictures(runner: Runner, out: Path) -> list[Blob]:
    """Edits by the base that are just about broken: what the rule's number looks like."""
    candidates = sorted(
        _attacked_rows(runner),
        key=lambda row: abs(row.values["edit_ssim"] - runner.rule.ssim_threshold),
    )
    blobs = []
    for i, row in enumerate(candidates[:_AT_THRESHOLD]):
        chunk = Pictures(
            runner.pictures.images[row.sample : row.sample + 1],
            runner.pictures.prompts[row.sample : row.sample + 1],
            row.sample,
        )
        images = _kept(row.epsilon, row.sample, runner)
        data = {"ssim": row.values["edit_ssim"], "feature_distance": row.values["edit_feature_distance"]}
        pair = {
            "edit_clean": _edits(runner.base, chunk, chunk.images, runner),
            "edit_attacked": _edits(runner.base, chunk, images, runner),
        }
        for column, edited in pair.items():
            name = f"threshold/{i}/{column}"
            blobs.append(
                write_blob(out, name, _png(edited[0]), caption=chunk.prompts[0], data=data)
            )
    return blobs


def _attacked_rows(runner: Runner) -> list[SampleRow]:
    return [
        row
        for row in runner.log
        if row.subject == runner.base.name
        and row.attack not in (NO_ATTACK, RANDOM_NOISE)
        and row.objective == "latent_shift"
    ]


def _kept(epsilon: float, sample: int, runner: Runner) -> Images:
    trial = next(
        t
        for t in runner.plan.trials
        if isinstance(t.objective, LatentShift)
        and isinstance(t.attack, PGD)
        and any(abs(float(e) - epsilon) < 1e-9 for e in t.epsilons)
    )
    path = adversarial_path(runner.folder, runner.base.name, trial, epsilon)
    with np.load(path, allow_pickle=False) as table:
        levels = table["adversarial"][sample : sample + 1]
    return torch.from_numpy(levels).permute(0, 3, 1, 2).float() / 255


def _edits(subject: Subject, pictures: Pictures, images: Images, runner: Runner) -> Images:
    return subject.edits(pictures, images, runner.plan.edit, runner.seed)


def _png(image: Tensor) -> bytes:
    levels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()
