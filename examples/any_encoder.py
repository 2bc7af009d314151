"""Harden any torch encoder: attack it, harden it, attack it again, take the update off.

python examples/any_encoder.py
"""

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import loricate


def encoder() -> nn.Module:
    """Stands for yours: anything from (n, 3, height, width) in [0, 1] to one row a picture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(32 * 8 * 8, 64),
        ).eval()


def pictures(n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=generator)
    return nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


def distance(module: nn.Module, x: Tensor) -> float:
    """How far an attack of 8/255 moves the embedding, over how far embeddings lie apart."""
    adversarial = loricate.attack_module(module, x, epsilon="8/255", steps=20)
    with torch.no_grad():
        clean, attacked = module(x), module(adversarial)
    return float((attacked - clean).norm(dim=1).mean() / (clean - clean.mean(0)).norm(dim=1).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args(arguments)

    module, held_out = encoder(), pictures(16, seed=1)
    print(f"moved by an attack, before: {distance(module, held_out):.3f}")
    hardened = loricate.harden_module(
        module, pictures(options.images, seed=0), epsilon="8/255", steps=options.steps
    )
    print(f"moved by an attack, after:  {distance(hardened.module, held_out):.3f}")

    plain = hardened.merged()  # for deployment: ordinary layers, no adapter
    hardened.detach()  # and the original is itself again, bit for bit
    print(f"{sum(p.numel() for p in plain.parameters())} weights, ranks:", end=" ")
    print({target.module: update.rank for target, update in hardened.adapter.items()})


if __name__ == "__main__":
    main()
