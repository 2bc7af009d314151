"""Attacks beside foolbox and torchattacks on one classifier, and two gradients of one denoiser.

Strength: share of pictures misclassified at the same budget, with its Wilson interval. Cost:
processor time over that of the bare forward and backward passes of as many steps, or of bare
forward passes for attacks without gradients; runs take turns, so that a busy machine slows all of
them, and ratios are medians over the turns. *Step* is the time of an iteration, from runs of two
lengths; *run* is that of the whole, where ours also measures the clean pictures, the last iterate
and the result as 8-bit files, which the peers leave to the caller. Jacobian: what the exact
gradient of the denoiser is worth beside the shortcut, on the embedded model, with the same draws.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from loricate.attacks.apgd import APGD
from loricate.attacks.pgd import PGD
from loricate.attacks.square import Square
from loricate.core.attack import Attack
from loricate.core.balls import ball
from loricate.core.family import EditSettings
from loricate.core.generators import sample_seeds
from loricate.core.objective import Objective
from loricate.core.threat import ThreatModel
from loricate.evaluation.statistics import Interval, wilson
from loricate.objectives.denoising_loss import DenoisingLoss
from loricate.objectives.score_distillation import ScoreDistillation
from loricate.recipes._data import held_out_pictures
from loricate.recipes._models import load_family, model_path
from loricate.surfaces.module import ModuleSurface

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox
    import torchattacks

_CLASSES = 6
_SIDE = 32
_EPSILON = {"linf": 4 / 255, "l2": 0.35}
_SILENT = 1e-4  # share of the budget at which nothing succeeds, and so nobody stops early

Run = Callable[[nn.Module, Tensor, Tensor, float, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """What the peers maximize."""

    labels: tuple[int, ...]
    surface_kind: ClassVar[str] = "classifier"

    def reference(self, surface, x, seeds) -> Tensor:
        """The labels."""
        return torch.tensor(self.labels)

    def value(self, output: Tensor, reference: Tensor) -> Tensor:
        """Loss of each picture."""
        return nn.functional.cross_entropy(output, reference, reduction="none")


def gratings(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy colored stripes, whose direction is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % _CLASSES
    angle = labels * torch.pi / _CLASSES + 0.15 * torch.randn(n, generator=generator)
    phase, color = torch.rand(n, generator=generator), torch.rand(n, 3, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(_SIDE), torch.arange(_SIDE), indexing="ij")
    across = angle.cos()[:, None, None] * columns + angle.sin()[:, None, None] * rows
    stripes = (0.8 * across + 2 * torch.pi * phase[:, None, None]).sin()[:, None]
    noise = torch.randn(n, 3, _SIDE, _SIDE, generator=generator)
    pixels = (0.5 + 0.15 * stripes * color + 0.12 * noise).clamp(0, 1)
    return (pixels * 255).round() / 255, labels


def classifier() -> nn.Module:
    """A small convolutional net, trained for a few seconds."""
    torch.manual_seed(0)
    widths, layers = (32, 64, 64), [nn.Conv2d(3, 32, 3, padding=1)]
    for before, after in zip((32, *widths), widths, strict=False):
        layers += [nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, after, 3, 2, 1)]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, _CLASSES)]
    model = nn.Sequential(*layers, *pool)
    x, labels = gratings(960, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(90):
        rows = slice(step % 15 * 64, step % 15 * 64 + 64)
        loss = nn.functional.cross_entropy(model(x[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def ours(attack: Callable[[int, float], Attack], norm: str) -> Run:
    def run(model: nn.Module, x: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
        objective = CrossEntropy(labels=tuple(labels.tolist()))
        threat = ThreatModel(ball=ball(norm, epsilon))
        surface, seeds = ModuleSurface(model), range(len(x))
        return attack(steps, epsilon)(surface, objective, threat, x, seeds=seeds).raw

    return run


def foolbox_pgd(norm: str) -> Run:
    cls = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]

    def run(model: nn.Module, x: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
        peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        attack = cls(rel_stepsize=0.1, steps=steps, random_start=True)
        return attack.run(peer, x, labels, epsilon=epsilon)

    return run


def torchattacks_run(make: Callable[[nn.Module, float, int], torchattacks.attack.Attack]) -> Run:
    def run(model: nn.Module, x: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
        return make(model, epsilon, steps)(x, labels)

    return run


def bare(norm: str) -> Run:
    """The passes alone: nothing is projected, clipped, kept or scored."""

    def run(model: nn.Module, x: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
        z = x
        for _ in range(steps):
            z = z.detach().requires_grad_()
            value = nn.functional.cross_entropy(model(z), labels, reduction="none")
            torch.autograd.grad(value.sum(), z)
        return z

    return run


def bare_forward(norm: str) -> Run:
    @torch.no_grad()
    def run(model: nn.Module, x: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
        for _ in range(steps):
            nn.functional.cross_entropy(model(x), labels, reduction="none")
        return x

    return run


def rivals(norm: str) -> dict[str, dict[str, Run]]:
    """By attack: whoever has it, and the passes it cannot do without."""
    pgd = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
    name = {"linf": "Linf", "l2": "L2"}[norm]
    return {
        "pgd": {
            "bare": bare(norm),
            "loricate": ours(lambda n, e: PGD(steps=n, step_size=e / 10, decay=False), norm),
            "foolbox": foolbox_pgd(norm),
            "torchattacks": torchattacks_run(lambda m, e, n: pgd(m, eps=e, alpha=e / 10, steps=n)),
        },
        "apgd": {
            "bare": bare(norm),
            "loricate": ours(lambda n, _: APGD(steps=n), norm),
            "torchattacks": torchattacks_run(
                lambda m, e, n: torchattacks.APGD(m, norm=name, eps=e, steps=n)
            ),
        },
        "square": {
            "bare": bare_forward(norm),
            "loricate": ours(lambda n, _: Square(queries=n), norm),
            "torchattacks": torchattacks_run(
                lambda m, e, n: torchattacks.Square(m, norm=name, eps=e, n_queries=n)
            ),
        },
    }


def seconds(run: Callable[[], Tensor]) -> float:
    start = time.process_time()  # of this process alone, whatever else the machine does
    run()
    return time.process_time() - start


class Cost(NamedTuple):
    """Processor time over that of the bare passes: of an iteration, and of a whole run."""

    step: float
    run: float


def costs(model: nn.Module, runs: Mapping[str, Run], norm: str, args) -> dict[str, Cost]:
    """What each run costs, as medians over turns."""
    x, labels = gratings(args.batch, seed=2)
    epsilon = _EPSILON[norm] * _SILENT
    lengths = (args.steps, args.steps * 4)
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in runs}
    for turn in range(args.turns + 1):
        for name, run in runs.items():
            spent = tuple(
                seconds(lambda run=run, n=n: run(model, x, labels, epsilon, n))
                for n in (lengths if turn else (2,))  # the first turn warms up
            )
            if turn:
                times[name].append(spent)
    bare = times["bare"]
    return {
        name: Cost(
            step=statistics.median(
                (more - few) / (most - least)
                for (few, more), (least, most) in zip(each, bare, strict=True)
            ),
            run=statistics.median(a / b for (a, _), (b, _) in zip(each, bare, strict=True)),
        )
        for name, each in times.items()
    }


def successes(model: nn.Module, runs: Mapping[str, Run], norm: str, args) -> dict[str, Interval]:
    """Share misclassified, with its interval; pictures that were wrong before count too."""
    x, labels = gratings(args.pictures, seed=3)
    found = {}
    for name, run in runs.items():
        torch.manual_seed(0)
        adversarial = run(model, x, labels, _EPSILON[norm], args.steps).detach()
        size = ball(norm, _EPSILON[norm]).size(adversarial - x)
        assert (size <= _EPSILON[norm] * (1 + 1e-4)).all(), f"{name} left its ball"
        with torch.no_grad():
            wrong = int((model(adversarial).argmax(1) != labels).sum())
        found[name] = wilson(wrong, len(x))
    return found


def jacobians(args) -> list[dict[str, object]]:
    """Exact gradient and shortcut under the same attack, scored with draws of their own."""
    path = model_path("emoji-sd")
    family, pictures = load_family(path, "cpu"), held_out_pictures(path, None, 48)
    pictures = pictures.head(args.jacobian_images)
    threat = ThreatModel(ball=ball("linf", 8 / 255), eot_samples=args.draws)
    seeds = sample_seeds(0, pictures.indices)
    fresh = [sample_seeds(root, pictures.indices) for root in range(1, 9)]
    judge = family.denoiser(pictures.prompts)

    @torch.no_grad()
    def loss(z: Tensor) -> Tensor:
        values = [DenoisingLoss().value(judge(z, draw), Tensor()) for draw in fresh]
        return torch.stack(values).mean(0)

    rows, clean = [], loss(pictures.images)
    for sign in ("+", "-"):
        for jacobian in ("exact", "shortcut"):
            objective = ScoreDistillation(sign=sign, jacobian=jacobian)
            surface = family.surface(objective.surface_kind, pictures.prompts, EditSettings())
            start = time.process_time()
            attack = PGD(steps=args.steps)
            result = attack(surface, objective, threat, pictures.images, seeds=seeds)
            spent = time.process_time() - start
            gain = (result.value - result.clean_value) / result.clean_value.abs()
            unseen = loss(result.adversarial) / clean - 1
            rows.append(
                {
                    "sign": sign,
                    "jacobian": jacobian,
                    "gain": float(gain.mean()),
                    "loss on fresh draws": float(unseen.mean()),
                    "standard error": float(unseen.std() / len(unseen) ** 0.5),
                    "seconds": spent,
                }
            )
    return rows


def compare(args) -> dict[str, object]:
    torch.set_num_threads(1)
    model = classifier()
    table: dict[str, object] = {}
    print(f"{'attack':14} {'who':13} {'step':>6} {'run':>6}   success (95 % interval)")
    for norm in _EPSILON:
        for attack, runs in rivals(norm).items():
            cost = costs(model, runs, norm, args)
            success = successes(model, runs, norm, args)
            shares = {name: (each.value, each.low, each.high) for name, each in success.items()}
            measured = {name: each._asdict() for name, each in cost.items()}
            table[f"{attack} {norm}"] = {"cost": measured, "success": shares}
            for name in runs:
                share = "{:.3f} ({:.3f} to {:.3f})".format(*shares[name])
                times = f"{cost[name].step:6.3f} {cost[name].run:6.3f}"
                print(f"{attack + ' ' + norm:14} {name:13} {times}   {share}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--jacobian-images", type=int, default=12, help="0 leaves the part out")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    args = parser.parse_args()
    figures: dict[str, object] = {"peers": compare(args)}
    if args.jacobian_images:
        figures["jacobians"] = rows = jacobians(args)
        print(f"\n{'SDS':4} {'jacobian':9} {'gain':>8} {'fresh draws':>12} {'seconds':>8}")
        for row in rows:
            print(
                f"{row['sign']:4} {row['jacobian']:9} {row['gain']:+8.3f} "
                f"{row['loss on fresh draws']:+7.3f}±{row['standard error']:.3f} "
                f"{row['seconds']:8.1f}"
            )
    if args.json:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"settings": settings, **figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
