"""Even out the latent channels of a trained autoencoder, exactly, inside its 1x1 convolutions.

A small autoencoder puts nearly all latent variance into a few channels, where production ones use
all of theirs. Rotating the latents to their principal axes and scaling each towards equal
variance is a change of coordinates: ``quant_conv`` applies it, ``post_quant_conv`` undoes it, and
reconstructions stay the same to float32 rounding.

    python embedded/whiten_latents.py --vae build/vae/vae --out build/vae/white
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from augment import backgrounds, load, on_background
from train_vae import drift_under_pgd, held_out_psnr


@torch.no_grad()
def moments(vae: AutoencoderKL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior means and variances of pictures, each (n, channels, h, w)."""
    posteriors = [vae.encode(c * 2 - 1).latent_dist for c in x.split(64)]
    return torch.cat([p.mean for p in posteriors]), torch.cat([p.var for p in posteriors])


@torch.no_grad()
def whiten(vae: AutoencoderKL, x: Tensor, power: float) -> Tensor:
    """Fold the change of coordinates into the autoencoder.

    Args:
        vae: Changed in place.
        x: Pictures in [0, 1] whose latents are evened out.
        power: 0 only rotates, 1 gives all principal axes the same variance.

    Returns:
        Variances along the principal axes before the change, in descending order.
    """
    mean, variance = moments(vae, x)
    rows = mean.transpose(0, 1).flatten(1).double()
    center = rows.mean(1)
    spectrum, axes = torch.linalg.eigh(rows.cov())
    spectrum, axes = spectrum.flip(0), axes.flip(1)
    forward = (spectrum ** (-power / 2))[:, None] * axes.T
    backward = torch.linalg.inv(forward)
    # The posterior becomes axis-aligned in the new coordinates, with its average variance.
    average = variance.transpose(0, 1).flatten(1).double().mean(1)
    logvar = (forward**2 @ average).log()
    n = len(spectrum)
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight[:, :, 0, 0].double(), quant.bias.double()
    weight[:n], bias[:n] = forward @ weight[:n], forward @ (bias[:n] - center)
    weight[n:], bias[n:] = 0.0, logvar
    quant.weight.copy_(weight[:, :, None, None]), quant.bias.copy_(bias)
    decode = post.weight[:, :, 0, 0].double()
    post.bias.add_((decode @ center).float())
    post.weight.copy_((decode @ backward)[:, :, None, None])
    return spectrum


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="build/data/emoji.npz")
    parser.add_argument("--vae", type=Path, default=Path("build/vae/vae"))
    parser.add_argument("--out", type=Path, default=Path("build/vae/white"))
    parser.add_argument("--power", type=float, default=0.5)
    args = parser.parse_args()
    vae = AutoencoderKL.from_pretrained(args.vae)
    size = vae.config.sample_size
    pictures = []
    for held_out in (False, True):
        rgba, _ = load(args.data, size, held_out=held_out)
        color = backgrounds(len(rgba), torch.Generator().manual_seed(1))
        pictures.append(on_background(rgba, color))
    train, test = pictures
    before = held_out_psnr(vae, test[:128])
    drift_before = drift_under_pgd(vae, test[:64], 4 / 255)
    spectrum = whiten(vae, train, args.power)
    vae.register_to_config(scaling_factor=float(1 / moments(vae, train)[0].std()))
    vae.save_pretrained(args.out)
    print(
        json.dumps(
            {
                "power": args.power,
                "psnr": [round(before, 3), round(held_out_psnr(vae, test[:128]), 3)],
                "drift_4_and_noise_before": drift_before,
                "drift_4_and_noise": drift_under_pgd(vae, test[:64], 4 / 255),
                "drift_16": drift_under_pgd(vae, test[:64], 16 / 255)[0],
                "spectrum": [round(float(v), 4) for v in spectrum],
            }
        )
    )


if __name__ == "__main__":
    main()
