"""Each preprocessor alone on the embedded model: what it seems to gain, and what is left of that.

Two attackers: one who attacks the model without its preprocessor and hopes (non-adaptive), and one
who attacks through the declared backward pass, averaged over draws (adaptive). Both are scored on
the deployed model by draws neither has seen. The gap between the two columns is what a
non-adaptive evaluation would have believed.

    python benchmarks/preprocessing.py --n 64 --threads 1 --out build/preprocessing

Rows that ``--out`` holds already are not measured again.
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from loricate.attacks.pgd import PGD
from loricate.core.balls import Linf
from loricate.core.defense import InputDefense
from loricate.core.family import EditSettings
from loricate.core.generators import sample_seeds
from loricate.core.shapes import Images
from loricate.core.threat import ThreatModel
from loricate.defenses.bit_depth import BitDepth
from loricate.defenses.blur import Blur
from loricate.defenses.diffusion_purification import DiffusionPurification
from loricate.defenses.jpeg import JPEG
from loricate.defenses.median import Median
from loricate.defenses.noise import Noise
from loricate.defenses.resize import Resize
from loricate.defenses.total_variation import TotalVariation
from loricate.evaluation.edit_rule import EditDistance, broken, calibrate
from loricate.evaluation.statistics import Interval, bootstrap_mean, bootstrap_ratio, wilson
from loricate.evaluation.subjects import FeatureSpace, Pictures, Subject
from loricate.metrics.feature_distance import FeatureDistance
from loricate.metrics.latent_drift import LatentDrift
from loricate.metrics.psnr import PSNR
from loricate.metrics.ssim import SSIM
from loricate.objectives.latent_shift import LatentShift
from loricate.recipes._data import held_out_pictures
from loricate.recipes._defaults import EPSILON, default_plan
from loricate.recipes._models import judge_of, load_family, model_path
from loricate.records.schema import EditRule

PREPROCESSORS: dict[str, tuple[InputDefense, ...]] = {
    "none": (),
    "jpeg 75": (JPEG(quality=75),),
    "jpeg 30": (JPEG(quality=30),),
    "jpeg 10": (JPEG(quality=10),),
    "resize 0.5": (Resize(factor=0.5),),
    "blur 1": (Blur(sigma=1.0),),
    "median 3": (Median(size=3),),
    "4 bits": (BitDepth(bits=4),),
    "total variation 0.1": (TotalVariation(strength=0.1),),
    "noise 0.05": (Noise(sigma=0.05),),
    "noise 0.1": (Noise(sigma=0.1),),
    "purification 0.25": (DiffusionPurification(strength=0.25),),
}

HEADER = (
    "| preprocessor | drift, not adaptive | drift, adaptive | apparent gain lost "
    "| edits broken, not adaptive | edits broken, adaptive | clean drift | clean PSNR, dB |\n|"
    + "---|"
    * 8
)

COLUMNS = ("clean", "attacked", "edit of clean", "not adaptive", "adaptive")
SHOWN, SCALE, DRAWS = 4, 3, 4


@dataclass(frozen=True)
class Budget:
    """How hard the attacks try."""

    steps: int
    eot_samples: int
    epsilon: float


@dataclass(frozen=True)
class Bench:
    """Model, pictures and judge that all rows share."""

    base: Subject
    pictures: Pictures
    judge: FeatureSpace
    rule: EditRule
    edit: EditSettings
    budget: Budget

    @classmethod
    def of(cls, n: int, budget: Budget) -> "Bench":
        """The embedded model, its first held-out pictures and the edit rule of its verdict."""
        path = model_path("emoji-sd")
        family = load_family(path, "cpu")
        pictures = held_out_pictures(path, None, family.image_size).head(n)
        base, judge = Subject("none", family), judge_of(path, None, family)
        plan = default_plan(budget.epsilon, "standard")
        rule = calibrate(base, judge, pictures, plan, seed=0)
        return cls(base, pictures, judge, rule, plan.edit, budget)

    @cached_property
    def transferred(self) -> Images:
        """Pictures made against the model without preprocessing."""
        return self.attacked(self.base)

    @cached_property
    def transferred_drift(self) -> Tensor:
        """What they do there."""
        return self.drift(self.base, self.transferred)

    def attacked(self, subject: Subject) -> Images:
        """Pictures made with full knowledge of a deployed model."""
        surface = subject.surface(LatentShift(), self.pictures.prompts, self.edit)
        draws = self.budget.eot_samples if surface.is_random else 1
        threat = ThreatModel(ball=Linf(epsilon=self.budget.epsilon), eot_samples=draws)
        seeds = sample_seeds(0, self.pictures.indices, "preprocessing attack")
        attack, x = PGD(steps=self.budget.steps), self.pictures.images
        return attack(surface, LatentShift(), threat, x, seeds=seeds).adversarial

    def drift(self, subject: Subject, images: Images) -> Tensor:
        """Mean latent drift over draws that no attack has seen."""
        rows = []
        for draw in range(DRAWS):
            seeds = sample_seeds(0, self.pictures.indices, "preprocessing score", draw)
            moved, clean = (subject.latents(x, seeds) for x in (images, self.pictures.images))
            rows.append(LatentDrift()(moved, clean))
        return torch.stack(rows).mean(0)

    def edits(self, subject: Subject, images: Images) -> Images:
        """Edits with the scoring noise of each picture."""
        return subject.edits(self.pictures, images, self.edit, 0)

    def broken(self, edits: Images, clean: Images) -> Tensor:
        """Which edits are broken, beside the clean edits of the same deployed model."""
        feature = FeatureDistance()(self.judge.features(edits), self.judge.features(clean))
        return broken(self.rule, EditDistance(feature, SSIM()(edits, clean)))


def measure(name: str, bench: Bench, out: Path) -> dict[str, object]:
    """One row, and a strip of pictures whose edits the adaptive attack alone breaks."""
    start, subject = time.monotonic(), Subject(name, bench.base.family, PREPROCESSORS[name])
    x, sources = bench.pictures.images, (bench.transferred, bench.attacked(subject))
    transfer, adaptive = (bench.drift(subject, images) for images in sources)
    clean, *edits = (bench.edits(subject, images) for images in (x, *sources))
    fell = [bench.broken(each, clean) for each in edits]
    strip = (x, sources[1], clean, *edits)
    sheet(strip, telling(fell, adaptive / transfer)).save(out / f"{name}.png")
    seeds = sample_seeds(0, bench.pictures.indices, "preprocessing score", 0)
    own, base = subject.latents(x, seeds), bench.base.latents(x, seeds)
    n = len(x)
    return {
        "preprocessor": name,
        "n": n,
        "drift_transfer": interval(bootstrap_mean(transfer.double(), seed=0)),
        "drift_adaptive": interval(bootstrap_mean(adaptive.double(), seed=0)),
        "adaptive_over_transfer": interval(
            bootstrap_ratio(adaptive.double(), transfer.double(), seed=0)
        ),
        "gain_lost": lost(bench.transferred_drift, transfer, adaptive),
        "broken_transfer": interval(wilson(int(fell[0].sum()), n)),
        "broken_adaptive": interval(wilson(int(fell[1].sum()), n)),
        "drift_clean": interval(bootstrap_mean(LatentDrift()(own, base).double(), seed=0)),
        "psnr": interval(
            bootstrap_mean(PSNR()(subject.reconstructions(x, seeds), x).double(), seed=0)
        ),
        "seconds": round(time.monotonic() - start, 1),
    }


def lost(base: Tensor, transfer: Tensor, adaptive: Tensor) -> float | None:
    """Share of the apparent gain in drift that the adaptive attack takes back."""
    apparent, real = float((base - transfer).mean()), float((base - adaptive).mean())
    return 1 - real / apparent if apparent > 1e-3 else None


def interval(found: Interval) -> list[float]:
    return [round(number, 4) for number in (found.value, found.low, found.high)]


def telling(fell: list[Tensor], ratio: Tensor) -> list[int]:
    """Pictures that only the adaptive attack breaks first, then those where it gains most."""
    only = (fell[1] & ~fell[0]).double()
    order = (only * 1e6 + ratio.double()).argsort(descending=True)
    return [int(i) for i in order[:SHOWN]]


def sheet(columns: tuple[Images, ...], rows: list[int]) -> Image.Image:
    """Pictures side by side, enlarged, with a line of titles."""
    side, head = columns[0].shape[-1] * SCALE, 14
    canvas = Image.new("RGB", (side * len(columns), head + side * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for at, (title, images) in enumerate(zip(COLUMNS, columns, strict=True)):
        draw.text((at * side + 2, 1), title, fill="black")
        for row, index in enumerate(rows):
            levels = (images[index].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            picture = Image.fromarray(levels).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(picture, (at * side, head + row * side))
    return canvas


def line(row: dict[str, object]) -> str:
    """A row as text."""
    gone = row["gain_lost"]
    cells = (
        str(row["preprocessor"]),
        spelled(row["drift_transfer"], "{:.3f}"),
        spelled(row["drift_adaptive"], "{:.3f}"),
        "–" if gone is None else f"{gone:.0%}",
        spelled(row["broken_transfer"], "{:.0%}"),
        spelled(row["broken_adaptive"], "{:.0%}"),
        spelled(row["drift_clean"], "{:.3f}"),
        spelled(row["psnr"], "{:.2f}"),
    )
    return "| " + " | ".join(cells) + " |"


def spelled(found: object, form: str) -> str:
    assert isinstance(found, list)
    value, low, high = (form.format(number) for number in found)
    return f"{value} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--eot", type=int, default=4)
    parser.add_argument("--only", default="", help="parts of names, split by commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("build/preprocessing"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench.of(args.n, Budget(args.steps, args.eot, float(EPSILON)))
    path = args.out / "rows.json"
    rows: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.exists() else {}
    print(HEADER)
    wanted = args.only.split(",")
    for name in (name for name in PREPROCESSORS if any(part in name for part in wanted)):
        if name not in rows:
            rows[name] = measure(name, bench, args.out)
            path.write_text(json.dumps(rows, indent=1))
        print(line(rows[name]), flush=True)


if __name__ == "__main__":
    main()
