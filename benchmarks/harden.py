"""What each part of the training is worth: one row a variant, on the embedded model.

Every variant is trained with the same steps and pictures and attacked by the same PGD on held-out
pictures. Gains are read beside the clean drift they cost.

    python benchmarks/harden.py --steps 200 --json build/ablation.json
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from loricate.attacks.pgd import PGD
from loricate.attacks.random_noise import RandomNoise
from loricate.core.balls import Linf
from loricate.core.defense import InputDefense
from loricate.core.family import Family
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images
from loricate.core.threat import ThreatModel
from loricate.core.training import silent
from loricate.defenses._target import Target, Trained
from loricate.defenses.adversarial_lora import AdversarialLora
from loricate.defenses.bit_depth import BitDepth
from loricate.defenses.drift_penalty import DriftPenalty
from loricate.defenses.jpeg import JPEG
from loricate.defenses.resize import Resize
from loricate.defenses.spectral_penalty import SpectralPenalty
from loricate.defenses.spectral_truncation import SpectralTruncation
from loricate.evaluation.subjects import Subject
from loricate.metrics.latent_drift import LatentDrift
from loricate.metrics.psnr import PSNR
from loricate.objectives.latent_shift import LatentShift
from loricate.recipes._data import calibration_images, held_out_pictures
from loricate.recipes._defaults import EPSILON, default_spec
from loricate.recipes._matching import clean_drift
from loricate.recipes._models import load_family, model_path

Change = Callable[[AdversarialLora], AdversarialLora]

VARIANTS: dict[str, Change] = {
    "default": lambda spec: spec,
    "clean drift 5 %": lambda spec: replace(spec, max_drift=0.05),
    "PGD-2 inside": lambda spec: replace(
        spec, inner=PGD(steps=2, step_size=0.6 * float(spec.epsilon), decay=False)
    ),
    "noise inside": lambda spec: replace(spec, inner=RandomNoise()),
    "ranks not re-allocated": lambda spec: replace(spec, oversize=1.0),
    "three times the budget": lambda spec: replace(spec, rank_budget=0.3),
    "no radius ramp": lambda spec: replace(spec, ramp=0.0),
    "drift penalty": lambda spec: replace(spec, regularizers=(DriftPenalty(weight=0.1),)),
    "spectral penalty": lambda spec: replace(spec, regularizers=(SpectralPenalty(weight=0.1),)),
    "full fine-tuning": lambda spec: replace(
        spec, schedule=replace(spec.schedule, learning_rate=spec.schedule.learning_rate / 4)
    ),
}

PREPROCESSING: dict[str, tuple[InputDefense, ...]] = {
    "": (),
    "JPEG 75": (JPEG(quality=75),),
    "JPEG 95": (JPEG(quality=95),),
    "resize 0.75": (Resize(factor=0.75),),
    "resize 0.9": (Resize(factor=0.9),),
    "5 bits": (BitDepth(bits=5),),
}

ALLOWED = 0.10
"""Clean drift the verdict of ``loricate harden`` allows."""

COMPOSED = "| deployed | drift attacked | over base | drift clean | PSNR dB |\n|" + "---|" * 5


def measure(name: str, subject: Subject, base: Subject, x: Images) -> dict[str, object]:
    """Drift under attack and clean cost of one variant."""
    seeds = sample_seeds(0, range(len(x)), "ablation")
    threat = ThreatModel(ball=Linf(epsilon=float(EPSILON)))
    surface = subject.family.vae_encoder()
    adversarial = PGD(steps=20)(surface, LatentShift(), threat, x, seeds=seeds).adversarial
    clean, own = base.latents(x, seeds), subject.latents(x, seeds)
    return {
        "variant": name,
        "drift_attacked": float(LatentDrift()(subject.latents(adversarial, seeds), own).mean()),
        "drift_clean": float(LatentDrift()(own, clean).mean()),
        "psnr": float(PSNR()(subject.reconstructions(x, seeds), x).mean()),
    }


@dataclass(frozen=True)
class Setting:
    """Model and pictures that all tables share."""

    family: Family
    images: Images
    x: Images

    @classmethod
    def of(cls, n_images: int) -> "Setting":
        """The embedded model and its last held-out pictures."""
        path = model_path("emoji-sd")
        family = load_family(path, "cpu")
        images = calibration_images(path, None, family.image_size)
        # Not those that `loricate harden` is judged by, which are the first.
        x = held_out_pictures(path, None, family.image_size).images[-n_images:]
        return cls(family, images, x)

    def trained(self, spec: AdversarialLora, *, is_dense: bool = False) -> tuple[Family, Trained]:
        """The model with its encoder trained by a spec."""
        twin = self.family.with_vae(copy.deepcopy(self.family.vae))
        target = Target(twin.vae, twin.vae_posterior(), twin.encoder_prefixes, is_dense=is_dense)
        return twin, spec.train(target, self.images, seed=0, observe=silent)


def run(names: list[str], steps: int, n_images: int) -> list[dict[str, object]]:
    """Train and measure the named variants, the base first."""
    setting = Setting.of(n_images)
    base, x = Subject("base", setting.family), setting.x
    rows = [measure("base", base, base, x) | {"parameters": 0, "seconds": 0.0}]
    for name in names:
        spec = VARIANTS[name](default_spec(epsilon=EPSILON, steps=steps))
        start = time.monotonic()
        twin, trained = setting.trained(spec, is_dense=name == "full fine-tuning")
        seconds = round(time.monotonic() - start, 1)
        row = measure(name, Subject(name, twin), base, x)
        rows.append(row | {"parameters": trained.log.parameters, "seconds": seconds})
        print(line(rows[-1], rows[0]), flush=True)
    return rows


def composition(steps: int, n_images: int) -> None:
    """Preprocessing before the base and before the default adapter, attacked as one."""
    setting = Setting.of(n_images)
    family, x, base = setting.family, setting.x, Subject("base", setting.family)
    twin, _ = setting.trained(default_spec(epsilon=EPSILON, steps=steps))
    rows: list[dict[str, object]] = []
    print(COMPOSED)
    for name, defenses in PREPROCESSING.items():
        for part, model in (("", family), ("adapter", twin)):
            label = " + ".join(filter(None, (name, part))) or "base"
            row = measure(label, Subject(label, model, defenses), base, x)
            rows.append(row)
            ratio = float(rows[0]["drift_attacked"]) / float(row["drift_attacked"])  # type: ignore[arg-type]
            print(
                f"| {label} | {row['drift_attacked']:.3f} | ÷ {ratio:.2f} | "
                f"{row['drift_clean']:.3f} | {row['psnr']:.2f} |",
                flush=True,
            )


def truncation(n_images: int) -> None:
    """What the article's procedure costs on clean pictures, by the energy it leaves out."""
    setting = Setting.of(n_images)
    family, x, base = setting.family, setting.x, Subject("base", setting.family)
    print("| energy left out of every weight | clean drift |\n|---|---|")
    for left_out in (1e-4, 1e-3, 2e-3, 4e-3, 8e-3, 3e-2):
        low = SpectralTruncation(energy=1 - left_out).apply(family.vae, family.encoder_prefixes)
        drift = clean_drift(Subject("truncated", family.with_vae(low)), base, x)
        print(f"| {left_out:.2%} | {drift:.4f} |", flush=True)


def smooth(steps: int, n_images: int) -> None:
    """Drift under changes that are flat over blocks, which pictures themselves differ by."""
    setting = Setting.of(n_images)
    family, x = setting.family, setting.x
    twin, _ = setting.trained(default_spec(epsilon=EPSILON, steps=steps))
    print(
        "| changes flat over | base | adapter | least at the allowed clean drift |\n|" + "---|" * 4
    )
    for size in (block for block in (48, 24, 12, 6, 2, 1) if family.image_size % block == 0):
        base, hardened = (flat_drift(model, x, size) for model in (family, twin))
        least = max(0.0, base - 2 * ALLOWED)
        print(f"| {size} x {size} | {base:.3f} | {hardened:.3f} | {least:.3f} |", flush=True)


def flat_drift(family: Family, x: Images, size: int) -> float:
    """Drift under 20 ascent steps on the colors of blocks, each within the radius."""
    subject, seeds, step = Subject("flat", family), sample_seeds(0, range(len(x)), "flat"), 0.2
    clean = subject.latents(x, seeds)
    encode = family.vae_encoder()
    shape = (*x.shape[:2], x.shape[2] // size, x.shape[3] // size)
    colors = torch.randn(shape, generator=torch.Generator().manual_seed(0)).sign() * 0.5
    best = torch.zeros(len(x))
    for _ in range(20):
        colors.requires_grad_(True)
        blocks = colors.repeat_interleave(size, 2).repeat_interleave(size, 3)
        adversarial = (x + float(EPSILON) * blocks).clamp(0.0, 1.0)
        drift = LatentDrift()(subject.latents(adversarial.detach(), seeds), clean)
        best = torch.maximum(best, drift)
        (slope,) = torch.autograd.grad((encode(adversarial, seeds) - clean).square().sum(), colors)
        colors = (colors.detach() + step * slope.sign()).clamp(-1.0, 1.0)
    return float(best.mean())


def line(row: dict[str, object], base: dict[str, object]) -> str:
    """A row as text, with the ratio to the base."""
    ratio = float(base["drift_attacked"]) / float(row["drift_attacked"])  # type: ignore[arg-type]
    return (
        f"| {row['variant']} | {row['drift_attacked']:.3f} | ÷ {ratio:.2f} | "
        f"{row['drift_clean']:.3f} | {row['psnr']:.2f} | {row['parameters']} | {row['seconds']} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--truncation", action="store_true", help="only the truncation control")
    parser.add_argument("--compose", action="store_true", help="only preprocessing and adapter")
    parser.add_argument(
        "--smooth", action="store_true", help="only changes that are flat in blocks"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.truncation:
        truncation(args.images)
        return
    if args.smooth:
        smooth(args.steps, args.images)
        return
    if args.compose:
        composition(args.steps, args.images)
        return
    rows = run(args.only, args.steps, args.images)
    print("\n| variant | drift attacked | over base | drift clean | PSNR dB | parameters | s |")
    print("|" + "---|" * 7)
    print("\n".join(line(row, rows[0]) for row in rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
