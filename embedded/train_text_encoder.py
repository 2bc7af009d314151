"""Train a text encoder with its byte-pair vocabulary, as CLIP is: against a small image encoder.

Both towers together are the judge of prompt alignment. The text tower of the first one conditions
the denoiser; a second one, other architecture and other seed, judges the finished model.

    python embedded/train_text_encoder.py --out build/text --minutes 6
    python embedded/train_text_encoder.py --out build/judge --image-tower convnext --seed 1
"""

import argparse
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    ConvNextConfig,
    PreTrainedModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from augment import backgrounds, load, on_background, unsettle, widen

TEMPLATES = (
    "{}",
    "{}",
    "a {}",
    "the {}",
    "{} emoji",
    "an emoji of a {}",
    "a picture of a {}",
    "a drawing of a {}",
    "an icon of a {}",
)
STYLED = ("{}, {} style", "{}, {} style", "{}, {}", "{} in {} style")
LENGTH = 24
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "do_center_crop": False,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
}
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def prompt(caption: str, style: str, template: int, styled: int) -> str:
    """The caption as someone would type it, with or without the style."""
    text = TEMPLATES[template % len(TEMPLATES)].format(caption)
    return STYLED[styled].format(text, style) if 0 <= styled < len(STYLED) else text


def byte_pairs(texts: Iterable[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary in the order CLIP uses (bytes, word-final bytes, merges, specials), and merges."""
    model = CLIPTokenizer().backend_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    base = alphabet + [byte + "</w>" for byte in alphabet]
    trainer = trainers.BpeTrainer(
        vocab_size=size, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    merges = merges[: size - len(base) - len(SPECIAL)]
    tokens = dict.fromkeys(base + ["".join(pair) for pair in merges] + list(SPECIAL))
    return {token: index for index, token in enumerate(tokens)}, merges


def tokenizer_for(captions: Iterable[str], size: int, folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer of the captions' words, saved as vocab.json and merges.txt too."""
    texts = [
        prompt(c, s, i, j)
        for i, c in enumerate(captions)
        for s in ("noto", "twemoji")
        for j in range(-1, len(STYLED))
    ]
    vocab, merges = byte_pairs(texts, size)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tokenizer


def text_config(
    tokenizer: CLIPTokenizer, width: int, layers: int, projection: int
) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        max_position_embeddings=LENGTH,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def vision_transformer(text: CLIPTextConfig, size: int) -> CLIPModel:
    """CLIP with patches of 8 pixels."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        projection_dim=text.projection_dim,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=size,
        patch_size=8,
    )
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=text.projection_dim)
    )


def convolutional(text: CLIPTextConfig, size: int) -> VisionTextDualEncoderModel:
    """CLIP with a ConvNeXt in place of the vision transformer."""
    vision = ConvNextConfig(
        image_size=size,
        patch_size=4,
        hidden_sizes=[48, 96, 192],
        depths=[1, 2, 1],
        num_stages=3,
        layer_scale_init_value=0.1,
        hidden_size=192,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision, text, projection_dim=text.projection_dim
    )
    return VisionTextDualEncoderModel(config)


IMAGE_TOWERS = {"vit": vision_transformer, "convnext": convolutional}


def tokens_of(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids padded to the longest text; the causal mask makes padding harmless."""
    return tokenizer(texts, padding=True, truncation=True, return_tensors="pt").input_ids


def text_features(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Unit vectors of prompts."""
    return nn.functional.normalize(model.get_text_features(input_ids=tokens).pooler_output, dim=-1)


def image_features(model: PreTrainedModel, x: Tensor) -> Tensor:
    """Unit vectors of pictures in [0, 1]."""
    features = model.get_image_features(pixel_values=x * 2 - 1).pooler_output
    return nn.functional.normalize(features, dim=-1)


def contrastive_loss(logits: Tensor, match: Tensor) -> Tensor:
    """InfoNCE both ways, where one text may fit several pictures and the reverse."""
    target = match.float()
    by_text = (nn.functional.log_softmax(logits, 1) * target).sum(1) / target.sum(1)
    by_image = (nn.functional.log_softmax(logits, 0) * target).sum(0) / target.sum(0).clamp(min=1)
    return -(by_text.mean() + by_image.mean()) / 2


def draw(
    rows: dict[str, np.ndarray], batch: int, generator: torch.Generator
) -> tuple[Tensor, list[str], Tensor]:
    """Row numbers, a prompt each, and which picture fits which prompt."""
    pairs = torch.randperm(len(rows["caption"]) // 2, generator=generator)[: batch // 2]
    index = torch.cat([2 * pairs, 2 * pairs + 1])
    template = torch.randint(len(TEMPLATES), (batch,), generator=generator).tolist()
    styled = torch.randint(2 * len(STYLED), (batch,), generator=generator)
    captions, styles = rows["caption"][index], rows["style"][index]
    texts = [prompt(*p) for p in zip(captions, styles, template, styled.tolist(), strict=True)]
    free = (styled >= len(STYLED)).numpy()[:, None]
    match = (captions[:, None] == captions) & (free | (styles[:, None] == styles))
    return index, texts, torch.from_numpy(match)


@torch.no_grad()
def rank_of_own(
    model: PreTrainedModel,
    tokenizer: CLIPTokenizer,
    x: Tensor,
    captions: np.ndarray,
    *,
    among: int = 100,
    pool: np.ndarray | None = None,
    seed: int = 0,
) -> Tensor:
    """Rank (0 is best) of each picture's caption among its own and random other ones."""
    pool = np.unique(captions if pool is None else pool)
    names = np.unique(np.concatenate([pool, captions]))
    texts = torch.cat(
        [
            text_features(model, tokens_of(tokenizer, list(c)))
            for c in np.array_split(names, max(1, len(names) // 128))
        ]
    )
    images = torch.cat([image_features(model, c) for c in x.split(128)])
    column = {name: i for i, name in enumerate(names)}
    chooser = np.random.default_rng(seed)
    ranks = []
    for caption, image in zip(captions, images, strict=True):
        others = chooser.choice(pool[pool != caption], min(among, len(pool)) - 1, replace=False)
        score = texts[[column[caption], *(column[o] for o in others)]] @ image
        ranks.append((score[1:] > score[0]).sum())
    return torch.stack(ranks)


def measure(
    model: PreTrainedModel, tokenizer: CLIPTokenizer, sets: dict[str, tuple[Tensor, np.ndarray]]
) -> dict[str, float]:
    """Share of pictures whose caption is first, and among the first five, of 100."""
    model.eval()
    line = {}
    for name, (x, captions) in sets.items():
        ranks = rank_of_own(model, tokenizer, x, captions)
        line |= {f"{name}_top{k}": round(float((ranks < k).float().mean()), 3) for k in (1, 5)}
    model.train()
    return line


def save(path: Path, state: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def export(model: PreTrainedModel, tokenizer: CLIPTokenizer, out: Path, size: int) -> None:
    """Folders judge/ and, for CLIP, text_encoder/ and tokenizer/."""
    model.eval().save_pretrained(out / "judge")
    tokenizer.save_pretrained(out / "judge")
    processor = PREPROCESSOR | {"size": {"height": size, "width": size}}
    (out / "judge" / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    model.text_model.save_pretrained(out / "text_encoder")


def train(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    rgba, rows = load(args.data, args.size, held_out=False)
    test, test_rows = load(args.data, args.size, held_out=True)
    fixed = torch.Generator().manual_seed(1)
    some = torch.randperm(len(rgba), generator=fixed)[:256]
    sets = {
        "train": (
            unsettle(widen(rgba[some], fixed, recolor=0, flip=False), fixed),
            rows["caption"][some],
        ),
        "test": (on_background(test, backgrounds(len(test), fixed)), test_rows["caption"]),
    }
    tokenizer = tokenizer_for(np.unique(rows["caption"]), args.vocabulary, args.out / "tokenizer")
    text = text_config(tokenizer, args.width, args.layers, args.projection)
    model = IMAGE_TOWERS[args.image_tower](text, args.size).train()
    model.text_model.requires_grad_(not args.freeze_text)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05
    )
    step, seconds = 0, 0.0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"]), optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        step, seconds = state["step"], state["seconds"]
    total, mark = args.minutes * 60, time.monotonic()
    while seconds < total:
        cosine = 0.5 * (1 + math.cos(math.pi * seconds / total))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, (step + 1) / 50) * (0.01 + 0.99 * cosine)
        index, texts, match = draw(rows, args.batch, generator)
        x = unsettle(widen(rgba[index], generator, recolor=0, flip=False), generator)
        scale = model.logit_scale.clamp(max=math.log(100)).exp()
        features = text_features(model, tokens_of(tokenizer, texts))
        loss = contrastive_loss(scale * features @ image_features(model, x).T, match)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        seconds, mark = seconds + time.monotonic() - mark, time.monotonic()
        if step % 50 == 0:
            line = {"step": step, "seconds": round(seconds), "loss": round(float(loss.detach()), 4)}
            print(
                json.dumps(line | (measure(model, tokenizer, sets) if step % 200 == 0 else {})),
                flush=True,
            )
            save(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "step": step,
                    "seconds": seconds,
                },
            )
            mark = time.monotonic()
    export(model, tokenizer, args.out, args.size)
    print(json.dumps({"step": step, "seconds": round(seconds), **measure(model, tokenizer, sets)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="build/data/emoji.npz")
    parser.add_argument("--out", type=Path, default=Path("build/text"))
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--image-tower", choices=IMAGE_TOWERS, default="vit")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--projection", type=int, default=128)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--freeze-text", action="store_true", help="go on with the judge alone")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
