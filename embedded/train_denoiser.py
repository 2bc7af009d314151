"""Train the denoiser of the embedded model on latents of captioned pictures, by v-prediction.

Latents and prompts are encoded once, so that a step costs the denoiser alone.

    python embedded/train_denoiser.py --vae build/vae/white --text build/text --out build/denoiser
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from augment import load, widen
from muon import optimizers_of
from train_text_encoder import LENGTH, STYLED, TEMPLATES, prompt, save

CAPTION_DROPOUT = 0.1
OUTER = ("conv_in", "conv_out", "time_embedding")


def architecture(
    latents: Tensor, text_width: int, channels: list[int], layers: int
) -> UNet2DConditionModel:
    """Stable Diffusion's denoiser, narrower: attention everywhere but in the last outer stage."""
    attending = len(channels) - 1
    return UNet2DConditionModel(
        sample_size=latents.shape[-1],
        in_channels=latents.shape[1],
        out_channels=latents.shape[1],
        block_out_channels=channels,
        down_block_types=["CrossAttnDownBlock2D"] * attending + ["DownBlock2D"],
        up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * attending,
        layers_per_block=layers,
        attention_head_dim=[c // 32 for c in channels],  # diffusers means the number of heads
        cross_attention_dim=text_width,
    )


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's kind of schedule, with less noise midway and nothing but noise at the end.

    Six by six latents repeat little of what they hold, so equal noise destroys more of a picture
    than in latents of 64 by 64.
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.0001,
        beta_end=0.006,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def paper(n: int, generator: torch.Generator) -> Tensor:
    """Flat colors: half of them white, most others light."""
    color = torch.rand(n, 3, generator=generator)
    kind = torch.rand(n, 1, generator=generator)
    return torch.where(kind < 0.5, 1.0, torch.where(kind < 0.8, 0.8 + 0.2 * color, color))


@torch.no_grad()
def latents_of(
    vae: AutoencoderKL, rgba: Tensor, variants: int, generator: torch.Generator
) -> Tensor:
    """Scaled posterior means of shifted pictures on flat backgrounds, (variants, n, c, h, w)."""
    out = []
    for variant in range(variants):
        chunks = []
        for rows in rgba.split(64):
            moved = widen(
                rows,
                generator,
                recolor=0,
                flip=False,
                shift=3 if variant else 0,
                color=paper(len(rows), generator),
            )
            chunks.append(vae.encode(moved * 2 - 1).latent_dist.mean)
        out.append(torch.cat(chunks))
    return torch.stack(out) * vae.config.scaling_factor


def prompts(rows: dict[str, np.ndarray], variants: int, generator: torch.Generator) -> list[str]:
    """So many prompts of each picture; half of them name the style."""
    n = variants * len(rows["caption"])
    template = torch.randint(len(TEMPLATES), (n,), generator=generator).tolist()
    styled = torch.randint(2 * len(STYLED), (n,), generator=generator).tolist()
    captions, styles = (np.tile(rows[name], variants) for name in ("caption", "style"))
    return [prompt(*p) for p in zip(captions, styles, template, styled, strict=True)]


@torch.no_grad()
def conditions_of(folder: Path, texts: list[str]) -> Tensor:
    """What the text encoder says of each text, (n, LENGTH, width), in half precision."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    ids = tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return torch.cat([encoder(chunk)[0].half() for chunk in ids.split(128)])


def spread_timesteps(n: int, steps: int, generator: torch.Generator) -> Tensor:
    """Random timesteps, one in each n-th of the range: less variance than independent ones."""
    places = torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)
    return (places * steps / n).long().clamp(max=steps - 1)


def loss_of(
    denoiser: UNet2DConditionModel,
    schedule: DDIMScheduler,
    latents: Tensor,
    condition: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Squared error of v."""
    t = spread_timesteps(len(latents), len(schedule.alphas_cumprod), generator)
    noise = torch.randn(latents.shape, generator=generator)
    noisy = schedule.add_noise(latents, noise, t)
    error = denoiser(noisy, t, condition).sample - schedule.get_velocity(latents, noise, t)
    return error.square().mean()


class Data:
    """Latents and conditions of every variant, kept in a file; a batch pairs them by picture."""

    def __init__(self, args: argparse.Namespace, generator: torch.Generator) -> None:
        cache = args.out / "data.pt"
        if not cache.exists():
            save(cache, self.encode(args, generator))
        state = torch.load(cache, weights_only=True)
        self.latents, self.empty = state["latents"], state["conditions"][0]
        self.conditions = state["conditions"][1:].unflatten(0, self.latents.shape[:2])

    @staticmethod
    def encode(args: argparse.Namespace, generator: torch.Generator) -> dict[str, object]:
        rgba, rows = load(args.data, args.size, held_out=False)
        vae = AutoencoderKL.from_pretrained(args.vae).eval()
        latents = latents_of(vae, rgba, args.variants, generator)
        texts = ["", *prompts(rows, args.variants, generator)]
        return {"latents": latents, "conditions": conditions_of(args.text, texts)}

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        variants, count = self.latents.shape[:2]
        picture = torch.randint(count, (n,), generator=generator)
        a, b = torch.randint(variants, (2, n), generator=generator)
        condition = self.conditions[b, picture]
        condition[torch.rand(n, generator=generator) < CAPTION_DROPOUT] = self.empty
        return self.latents[a, picture], condition.float()


@torch.no_grad()
def move_towards(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Exponential moving average of the parameters."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def train(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    data = Data(args, generator)
    schedule = noise_schedule()
    schedule.save_pretrained(args.out / "scheduler")
    denoiser = (
        UNet2DConditionModel.from_pretrained(args.start)
        if args.start
        else architecture(data.latents[0], data.empty.shape[-1], args.channels, args.layers)
    ).train()
    average = copy.deepcopy(denoiser).eval()
    optimizers = optimizers_of(denoiser, OUTER, args.lr)
    spread = data.latents.std((0, 1, 3, 4)).tolist()
    print(
        json.dumps(
            {
                "parameters": sum(p.numel() for p in denoiser.parameters()),
                "latents": list(data.latents.shape),
                "channel_std": [round(s, 2) for s in spread],
            }
        ),
        flush=True,
    )
    step, seconds, running = 0, 0.0, 0.0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        denoiser.load_state_dict(state["denoiser"]), average.load_state_dict(state["ema"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        generator.set_state(state["generator"])
        step, seconds, running = state["step"], state["seconds"], state["running"]
    total, mark = args.minutes * 60, time.monotonic()
    while seconds < total:
        cosine = 0.5 * (1 + math.cos(math.pi * seconds / total))
        for group in (g for optimizer in optimizers for g in optimizer.param_groups):
            group["lr"] = args.lr * min(1.0, (step + 1) / 200) * (0.01 + 0.99 * cosine)
        loss = loss_of(denoiser, schedule, *data.draw(args.batch, generator), generator)
        denoiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        move_towards(average, denoiser, min(args.ema, step / (step + 10)))
        running += (float(loss.detach()) - running) / min(step, 100)
        seconds, mark = seconds + time.monotonic() - mark, time.monotonic()
        if step % 100 == 0:
            line = {"step": step, "seconds": round(seconds), "loss": round(running, 4)}
            print(json.dumps(line), flush=True)
        if step % 500 == 0:
            save(
                checkpoint,
                {
                    "denoiser": denoiser.state_dict(),
                    "ema": average.state_dict(),
                    "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                    "generator": generator.get_state(),
                    "step": step,
                    "seconds": seconds,
                    "running": running,
                },
            )
            average.save_pretrained(args.out / "unet")
            mark = time.monotonic()
    average.save_pretrained(args.out / "unet")
    print(json.dumps({"step": step, "seconds": round(seconds), "loss": round(running, 4)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="build/data/emoji.npz")
    parser.add_argument("--vae", type=Path, default=Path("build/vae/white"))
    parser.add_argument("--text", type=Path, default=Path("build/text"))
    parser.add_argument("--out", type=Path, default=Path("build/denoiser"))
    parser.add_argument("--start", type=Path, help="finished denoiser to go on from")
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 192])
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--variants", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=29)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
