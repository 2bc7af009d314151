"""Train the autoencoder of the embedded model: L1, image gradients and a KL weight of 1e-6.

python embedded/train_vae.py --data build/data/emoji.npz --out build/vae --minutes 40
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from augment import backgrounds, load, on_background, widen

KL_WEIGHT = 1e-6
INITIAL_LOGVAR = -6.0


def architecture(size: int, channels: list[int], latent_channels: int) -> AutoencoderKL:
    """Stable Diffusion's autoencoder, narrower and shallower."""
    depth = len(channels)
    vae = AutoencoderKL(
        sample_size=size,
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * depth,
        up_block_types=["UpDecoderBlock2D"] * depth,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=8,
    )
    # A posterior as wide as the untrained signal stalls the first thousand steps; KL may widen it.
    torch.nn.init.constant_(vae.quant_conv.bias[latent_channels:].detach(), INITIAL_LOGVAR)
    return vae


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def loss_of(vae: AutoencoderKL, x: Tensor, generator: torch.Generator) -> Tensor:
    """Reconstruction in L1 and image gradients, plus the KL term of Stable Diffusion."""
    posterior = vae.encode(x * 2 - 1).latent_dist
    y = vae.decode(posterior.sample(generator)).sample / 2 + 0.5
    gradient = sum((a - b).abs().mean() for a, b in zip(edges(x), edges(y), strict=True))
    kl = posterior.kl().sum() / x.numel()
    return (x - y).abs().mean() + gradient + KL_WEIGHT * kl


@torch.no_grad()
def held_out_psnr(vae: AutoencoderKL, x: Tensor) -> float:
    """Mean per-picture PSNR in dB of decode(mean of encode)."""
    y = torch.cat([vae(c * 2 - 1).sample / 2 + 0.5 for c in x.split(64)]).clamp(0, 1)
    return float((-10 * (x - y).pow(2).mean((1, 2, 3)).log10()).mean())


def drift_under_pgd(
    vae: AutoencoderKL, x: Tensor, epsilon: float, steps: int = 15
) -> tuple[float, float]:
    """Latent drift by PGD and by random signs, over the per-channel-centered clean norm."""
    encode = lambda v: vae.encode(v * 2 - 1).latent_dist.mean  # noqa: E731
    with torch.no_grad():
        clean = encode(x)
        norm = (clean - clean.mean((0, 2, 3), keepdim=True)).flatten(1).norm(dim=1)
        noise = (x + epsilon * torch.randn_like(x).sign()).clamp(0, 1)
        random = ((encode(noise) - clean).flatten(1).norm(dim=1) / norm).mean()
    z = (x + epsilon * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(steps):
        z.requires_grad_(True)
        (grad,) = torch.autograd.grad((encode(z) - clean).pow(2).sum(), z)
        z = (
            (z.detach() + 2.5 * epsilon / steps * grad.sign())
            .clamp(x - epsilon, x + epsilon)
            .clamp(0, 1)
        )
    with torch.no_grad():
        moved = ((encode(z) - clean).flatten(1).norm(dim=1) / norm).mean()
    return float(moved), float(random)


def save(path: Path, state: dict[str, object]) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    rgba, _ = load(args.data, args.size, held_out=False)
    test, _ = load(args.data, args.size, held_out=True)
    test = on_background(test, backgrounds(len(test), torch.Generator().manual_seed(1)))
    vae = architecture(args.size, args.channels, args.latent_channels)
    ema = torch.optim.swa_utils.AveragedModel(
        vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(args.ema)
    )
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4
    )
    step, seconds = 0, 0.0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        vae.load_state_dict(state["vae"]), ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"]), generator.set_state(state["generator"])
        step, seconds = state["step"], state["seconds"]
    total, mark = args.minutes * 60, time.monotonic()
    while seconds < total:
        progress = seconds / total
        warmup = min(1.0, (step + 1) / 200)
        for group in optimizer.param_groups:
            group["lr"] = (
                args.lr * warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
            )
        rows = torch.randint(len(rgba), (args.batch,), generator=generator)
        loss = loss_of(vae, widen(rgba[rows], generator), generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(vae)
        step += 1
        seconds, mark = seconds + time.monotonic() - mark, time.monotonic()
        if step % 250 == 0:
            line = {"step": step, "seconds": round(seconds), "loss": round(float(loss.detach()), 4)}
            if step % 1000 == 0:
                line["psnr"] = round(held_out_psnr(ema.module, test[:128]), 2)
            print(json.dumps(line), flush=True)
            save(
                checkpoint,
                {
                    "vae": vae.state_dict(),
                    "ema": ema.state_dict(),
                    "step": step,
                    "optimizer": optimizer.state_dict(),
                    "seconds": seconds,
                    "generator": generator.get_state(),
                },
            )
            mark = time.monotonic()
    final = ema.module.eval()
    latents = torch.cat([final.encode(c * 2 - 1).latent_dist.mean.detach() for c in test.split(64)])
    final.register_to_config(scaling_factor=float(1 / latents.std()))
    final.save_pretrained(args.out / "vae")
    drift, noise = drift_under_pgd(final, test[:64], 4 / 255)
    drift16, _ = drift_under_pgd(final, test[:64], 16 / 255)
    spectrum = torch.linalg.eigvalsh(latents.transpose(0, 1).flatten(1).cov()).flip(0)
    print(
        json.dumps(
            {
                "step": step,
                "psnr": held_out_psnr(final, test),
                "drift_4": drift,
                "noise_4": noise,
                "drift_16": drift16,
                "channel_spectrum": [round(float(v), 4) for v in spectrum],
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="build/data/emoji.npz")
    parser.add_argument("--out", type=Path, default=Path("build/vae"))
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 64])
    parser.add_argument("--latent-channels", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--seed", type=int, default=0)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
