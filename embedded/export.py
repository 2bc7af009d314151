"""Put the trained parts together: a diffusers folder with judges, pictures, digests and a card.

The card is a template, ``card.md``; its figures come from ``measure.py``.

    python embedded/export.py --vae build/decoder/vae --text build/text --judge build/judge \
        --denoiser build/denoiser --data build/data/emoji.npz --out src/loricate/models/emoji-sd
    python embedded/measure.py --figures build/figures.json
    python embedded/export.py --card build/figures.json
"""

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import AutoModel, CLIPTextModel, CLIPTokenizer

from augment import load, on_background
from train_denoiser import paper

CALIBRATION, TEST = 640, 400
CARD = Path(__file__).with_name("card.md")


def stored_in_half(folder: Path) -> None:
    """Half-precision weights whose config asks for single precision, since CPUs want that."""
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = "float32"
    for tower in ("text_config", "vision_config"):
        if tower in config:
            config[tower]["dtype"] = "float32"
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def forget_origin(folder: Path) -> None:
    """Configs without the local folders they were loaded from."""
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("_name_or_path", None):
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_vocabulary(tokenizer: Path, out: Path) -> None:
    """The tokenizer with the two files every CLIP loader knows."""
    CLIPTokenizer.from_pretrained(tokenizer).save_pretrained(out)
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(tokenizer / name, out / name)


def save_pipeline(vae: Path, text: Path, denoiser: Path, out: Path) -> None:
    """Stable Diffusion in diffusers layout, half precision, no safety checker."""
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(vae),
        text_encoder=CLIPTextModel.from_pretrained(text / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(text / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(denoiser / "unet"),
        scheduler=DDIMScheduler.from_pretrained(denoiser / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(out)
    save_vocabulary(text / "tokenizer", out / "tokenizer")
    stored_in_half(out / "text_encoder")


def save_judge(judge: Path, tokenizer: Path, out: Path) -> None:
    AutoModel.from_pretrained(judge, dtype=torch.float16).save_pretrained(out)
    stored_in_half(out)
    save_vocabulary(tokenizer, out)
    shutil.copyfile(judge / "preprocessor_config.json", out / "preprocessor_config.json")


def save_pictures(
    rgba: Tensor, rows: dict[str, np.ndarray], index: np.ndarray, seed: int, path: Path
) -> None:
    """Pictures on flat backgrounds as 8-bit NHWC, with captions, styles and concepts."""
    color = paper(len(index), torch.Generator().manual_seed(seed))
    images = (on_background(rgba[index], color) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    np.savez_compressed(
        path,
        images=images,
        captions=rows["caption"][index],
        styles=rows["style"][index],
        concepts=rows["concept"][index],
    )


def spread(rows: dict[str, np.ndarray], count: int, seed: int) -> np.ndarray:
    """Row numbers of so many pictures: one style of each concept before any second one."""
    chooser = np.random.default_rng(seed)
    pairs = chooser.permutation(len(rows["caption"]) // 2)
    first = chooser.integers(2, size=len(pairs))
    return np.concatenate([2 * pairs + first, 2 * pairs + 1 - first])[:count]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the folder but the list itself."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "digests.json")
    digest = lambda p: hashlib.sha256(p.read_bytes()).hexdigest()  # noqa: E731
    return {p.relative_to(folder).as_posix(): digest(p) for p in paths}


def sizes(folder: Path) -> dict[str, float]:
    """Megabytes of weights and of pictures."""
    total = lambda paths: round(sum(p.stat().st_size for p in paths) / 1e6, 2)  # noqa: E731
    images = (folder / "images").iterdir()
    return {"weights": total(folder.rglob("*.safetensors")), "images": total(images)}


def assemble(args: argparse.Namespace) -> None:
    save_pipeline(args.vae, args.text, args.denoiser, args.out)
    save_judge(args.text / "judge", args.text / "tokenizer", args.out / "judge")
    save_judge(args.judge / "judge", args.judge / "tokenizer", args.out / "judge_independent")
    forget_origin(args.out)
    (args.out / "images").mkdir(exist_ok=True)
    for name, count, held_out in (("calibration", CALIBRATION, False), ("test", TEST, True)):
        rgba, rows = load(args.data, args.size, held_out=held_out)
        index = spread(rows, count, seed=2)
        save_pictures(rgba, rows, index, 3, args.out / "images" / f"{name}.npz")


def flat(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    """Leaves by dotted path."""
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        leaves |= flat(value, f"{prefix}{key}.") if nested else {prefix + key: value}
    return leaves


def write_card(figures: Path, out: Path) -> None:
    """README.md: the template with its {{names}} replaced by measured figures."""
    text = CARD.read_text(encoding="utf-8")
    leaves = flat(json.loads(figures.read_text()) | {"size": sizes(out)})
    for name, value in leaves.items():
        percent = isinstance(value, float) and name.rpartition(".")[2].startswith("top")
        text = text.replace(f"{{{{{name}}}}}", f"{100 * value:.1f} %" if percent else str(value))
    (out / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="build/data/emoji.npz")
    parser.add_argument("--vae", type=Path, default=Path("build/decoder/vae"))
    parser.add_argument("--text", type=Path, default=Path("build/text"))
    parser.add_argument("--judge", type=Path, default=Path("build/judge"))
    parser.add_argument("--denoiser", type=Path, default=Path("build/denoiser"))
    parser.add_argument("--out", type=Path, default=Path("src/loricate/models/emoji-sd"))
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--card", type=Path, help="only write README.md, from these figures")
    args = parser.parse_args()
    if args.card:
        write_card(args.card, args.out)
    else:
        assemble(args)
    (args.out / "digests.json").write_text(json.dumps(digests(args.out), indent=1) + "\n")
    print(json.dumps({"megabytes": sizes(args.out)}))


if __name__ == "__main__":
    main()
