"""Figures and picture grids of the finished model, as its card shows them.

Everything is read from the exported folder, weights in single precision.

    python embedded/measure.py --model src/loricate/models/emoji-sd --data build/data/emoji.npz \
        --figures build/figures.json
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, CLIPTokenizer

from augment import load
from train_text_encoder import rank_of_own
from train_vae import drift_under_pgd, held_out_psnr

BUDGETS = (2, 4, 8, 16)
STEPS, GUIDANCE = 20, 3.0
GENERATED = ("generated", "generated_held_out")
STRENGTHS = (0.3, 0.45, 0.6)
EDITS = (
    "{}, twemoji style",
    "red {}",
    "blue {}",
    "smiling {}",
    "a cat",
    "pizza",
    "a flower",
    "dog face",
)


def pictures(model: Path, name: str) -> tuple[Tensor, np.ndarray]:
    """Pictures in [0, 1], (n, 3, h, w), and captions of one file of images/."""
    with np.load(model / "images" / f"{name}.npz") as stored:
        x = torch.from_numpy(stored["images"]).permute(0, 3, 1, 2).float() / 255
        return x.contiguous(), stored["captions"]


def quiet(pipeline: StableDiffusionPipeline) -> StableDiffusionPipeline:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(model: Path, prompts: list[str], *, seed: int = 0) -> Tensor:
    """A picture of each prompt, in [0, 1]."""
    pipeline = quiet(StableDiffusionPipeline.from_pretrained(model))
    generator = torch.Generator().manual_seed(seed)
    chunks = [
        pipeline(
            prompts[i : i + 50],
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=generator,
            output_type="pt",
        ).images
        for i in range(0, len(prompts), 50)
    ]
    return torch.cat(chunks)


def edit(model: Path, x: Tensor, prompts: list[str], strength: float, *, seed: int = 0) -> Tensor:
    """Each picture edited by its prompt, in [0, 1]."""
    pipeline = quiet(StableDiffusionImg2ImgPipeline.from_pretrained(model))
    return pipeline(
        prompts,
        image=x,
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).images


def reconstruct(vae: AutoencoderKL, x: Tensor) -> Tensor:
    with torch.no_grad():
        return (vae(x * 2 - 1).sample / 2 + 0.5).clamp(0, 1)


def save_grid(rows: list[Tensor], path: Path, *, zoom: int = 2) -> None:
    """One PNG of equally long rows of pictures, each enlarged and with a thin margin."""
    large = [functional.interpolate(row, scale_factor=zoom) for row in rows]
    framed = [functional.pad(row, (1,) * 4, value=0.5) for row in large]
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in framed], dim=1)
    pixels = (sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path, optimize=True)


def judged(
    model: Path, judge: str, x: Tensor, captions: np.ndarray, pool: np.ndarray
) -> dict[str, float]:
    """Share of pictures whose caption a judge ranks first, and among the first five, of 100."""
    folder = model / judge
    network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ranks = rank_of_own(network, CLIPTokenizer.from_pretrained(folder), x, captions, pool=pool)
    return {f"top{k}": round(float((ranks < k).float().mean()), 3) for k in (1, 5)}


def autoencoder_figures(model: Path) -> dict[str, object]:
    """Held-out PSNR and latent drift by PGD and by noise of the same size."""
    torch.manual_seed(0)
    vae = AutoencoderKL.from_pretrained(model / "vae").eval()
    x, _ = pictures(model, "test")
    figures: dict[str, object] = {"held_out_psnr": round(held_out_psnr(vae, x), 2)}
    for budget in BUDGETS:
        moved, noise = drift_under_pgd(vae, x[:64], budget / 255)
        figures[f"drift_{budget}"] = {"pgd": round(moved, 3), "noise": round(noise, 3)}
    return figures


def judged_sets(model: Path, data: str) -> dict[str, tuple[Tensor, np.ndarray]]:
    """Pictures with captions: generated and drawn, of training and of held-out concepts."""
    x, rows = load(data, 48, held_out=False)
    test = pictures(model, "test")
    chooser = np.random.default_rng(0)
    captions = chooser.choice(np.unique(rows["caption"]), 200, replace=False)
    held_out = chooser.choice(np.unique(test[1]), 100, replace=False)
    some = chooser.choice(len(x), 200, replace=False)
    return {
        "generated": (generate(model, list(captions)), captions),
        "generated_held_out": (generate(model, list(held_out)), held_out),
        "art": (x[some, :3] + 1 - x[some, 3:], rows["caption"][some]),
        "art_held_out": test,
    }


def prompt_figures(
    model: Path, sets: dict[str, tuple[Tensor, np.ndarray]], pool: np.ndarray
) -> dict[str, object]:
    """How often judges find the prompt in generated pictures, and in the art itself."""
    return {
        f"{name}_{judge}": judged(model, judge, *pair, pool)
        for name, pair in sets.items()
        for judge in ("judge_independent", "judge")
    }


def grids(model: Path, data: str, out: Path) -> None:
    """Sheets of generated pictures, reconstructions and edits, and the prompts of each."""
    _, rows = load(data, 48, held_out=False)
    captions = np.random.default_rng(1).choice(np.unique(rows["caption"]), 64, replace=False)
    generated = generate(model, list(captions), seed=1)
    save_grid(list(generated.split(8)), out / "generated.png")
    lines = [", ".join(row) for row in captions.reshape(8, 8)]
    (out / "generated.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    x, names = pictures(model, "test")
    vae = AutoencoderKL.from_pretrained(model / "vae").eval()
    pairs = [(row, reconstruct(vae, row)) for row in x[:32].split(16)]
    save_grid([row for pair in pairs for row in pair], out / "reconstructions.png")
    faces = np.flatnonzero(np.char.find(names, "face") >= 0)[:6]
    chosen = np.concatenate([faces, np.arange(40, 40 + 16 - len(faces))])
    prompts = [EDITS[i % len(EDITS)].format(name) for i, name in enumerate(names[chosen])]
    edits = (edit(model, x[chosen], prompts, strength) for strength in STRENGTHS)
    save_grid([x[chosen], *edits], out / "edits.png")
    (out / "edits.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("src/loricate/models/emoji-sd"))
    parser.add_argument("--data", default="build/data/emoji.npz")
    parser.add_argument("--figures", type=Path, default=Path("build/figures.json"))
    args = parser.parse_args()
    grids(args.model, args.data, args.model / "images")
    started = time.monotonic()
    sets = judged_sets(args.model, args.data)
    seconds = (time.monotonic() - started) / sum(len(sets[name][1]) for name in GENERATED)
    pool = np.unique(load(args.data, 48, held_out=False)[1]["caption"])
    figures = {
        "autoencoder": autoencoder_figures(args.model),
        "prompts": prompt_figures(args.model, sets, pool),
        "seconds_a_picture": round(seconds, 3),
    }
    args.figures.write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
