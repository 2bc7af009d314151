"""Fine-tune the decoder of the embedded model; its latents, and so the denoiser, stay as they are.

Production decoders are fine-tuned the same way (the ``ft-mse`` one of Stable Diffusion). The loss
is the logarithm of each picture's mean squared error, minus its PSNR but for a factor.

    python embedded/finetune_decoder.py --vae build/vae/white --out build/decoder --minutes 10
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from augment import backgrounds, load, on_background, widen
from train_vae import held_out_psnr, save

FLOOR = 1e-5  # a mean squared error below it, 50 dB, is not worth a gradient


def train(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.vae)
    size = vae.config.sample_size
    rgba, _ = load(args.data, size, held_out=False)
    test, _ = load(args.data, size, held_out=True)
    test = on_background(test, backgrounds(len(test), torch.Generator().manual_seed(1)))
    vae.requires_grad_(False)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    average = [p.detach().clone() for p in trained]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    step, seconds, checkpoint = 0, 0.0, args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"]), optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"])
        average, step, seconds = state["average"], state["step"], state["seconds"]
    total, mark = args.minutes * 60, time.monotonic()
    while seconds < total:
        rate = 0.5 * (1 + math.cos(math.pi * seconds / total)) * min(1.0, (step + 1) / 100)
        optimizer.param_groups[0]["lr"] = args.lr * rate
        rows = torch.randint(len(rgba), (args.batch,), generator=generator)
        x = widen(rgba[rows], generator)
        with torch.no_grad():
            z = vae.encode(x * 2 - 1).latent_dist.mean
        error = (vae.decode(z).sample / 2 + 0.5 - x).pow(2).mean((1, 2, 3))
        loss = (error + FLOOR).log().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        decay = min(0.998, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, parameter in zip(average, trained, strict=True):
                kept.lerp_(parameter, 1 - decay)
        step += 1
        seconds, mark = seconds + time.monotonic() - mark, time.monotonic()
        if step % 250 == 0:
            print(
                json.dumps(
                    {
                        "step": step,
                        "seconds": round(seconds),
                        "loss": round(float(loss.detach()), 3),
                    }
                ),
                flush=True,
            )
            save(
                checkpoint,
                {
                    "vae": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "average": average,
                    "seconds": seconds,
                    "generator": generator.get_state(),
                },
            )
            mark = time.monotonic()
    with torch.no_grad():
        for kept, parameter in zip(average, trained, strict=True):
            parameter.copy_(kept)
    vae.eval().save_pretrained(args.out / "vae")
    print(json.dumps({"step": step, "psnr": held_out_psnr(vae, test)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="build/data/emoji.npz")
    parser.add_argument("--vae", type=Path, default=Path("build/vae/white"))
    parser.add_argument("--out", type=Path, default=Path("build/decoder"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
