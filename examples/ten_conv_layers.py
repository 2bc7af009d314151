"""Ten chained convolutions, hardened: decompose, keep the top components, update, infer.

    python examples/ten_conv_layers.py            # a minute on two cores
    python examples/ten_conv_layers.py --full     # 256 features, 32 images of 3 x 256 x 256

The first part does what the article describes: every weight is replaced by its top components.
The second trains low-rank updates against an attack. Both are then attacked in the same way.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import loricate
from loricate.lowrank import conv
from loricate.lowrank.rules import FixedRank
from loricate.lowrank.svd import truncated_svd

_LAYERS = 10
_EPSILON = 4 / 255


@dataclass(frozen=True)
class Size:
    """How large the example is."""

    features: int = 64
    side: int = 32
    images: int = 16
    top_k: int = 60
    rank: int = 16
    steps: int = 30
    attack_steps: int = 10


FULL = Size(features=256, side=256, images=32, top_k=240, rank=32, steps=100, attack_steps=20)


def chain(features: int, seed: int = 0) -> nn.Sequential:
    """Ten convolutions, each feeding the next; the first takes three channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for index in range(_LAYERS):
            layer = nn.Conv2d(features if index else 3, features, 3, padding=1)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval().requires_grad_(False)


def blurred_noise(n: int, side: int, seed: int) -> Tensor:
    """Pictures with structure at several scales, on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(n, 3, side, side)
    for scale in (2, 4, 8):
        coarse = torch.rand(n, 3, scale, scale, generator=generator)
        total += nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return (total / 3 * 255).round() / 255


def keep_top_components(net: nn.Sequential, k: int) -> tuple[nn.Sequential, list[float]]:
    """The article's procedure: each weight becomes the sum of its k largest components.

    Returns the truncated copy, and the share of each weight's energy that is left.
    """
    truncated, kept = copy.deepcopy(net), []
    for layer in truncated:
        if isinstance(layer, nn.Conv2d):
            matrix = conv.as_matrix(layer.weight)
            low = truncated_svd(matrix, FixedRank(k)).dense()
            kept.append(float(low.square().sum() / matrix.square().sum()))
            layer.weight.copy_(conv.as_kernel(low, layer.weight.shape[1:]))
    return truncated, kept


@torch.no_grad()
def drift(net: nn.Module, x: Tensor, base: nn.Module, reference: Tensor) -> float:
    """How far outputs moved from those of ``base``, relative to how far those spread."""
    target = base(reference)
    centered = target - target.mean((0, 2, 3), keepdim=True)
    distance = (net(x) - target).flatten(1).norm(dim=1)
    return float((distance / centered.flatten(1).norm(dim=1)).mean())


def measure(name: str, net: nn.Module, base: nn.Module, x: Tensor, steps: int) -> None:
    """Clean drift from the base, and drift from the own clean output under noise and attack."""
    attacked = loricate.attack_module(net, x, epsilon=_EPSILON, steps=steps, n_restarts=1)
    sign = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(9)) * 2.0 - 1
    noisy = (x + _EPSILON * sign).clamp(0, 1)
    values = (drift(net, x, base, x), drift(net, noisy, net, x), drift(net, attacked, net, x))
    print(f"{name:22}" + "".join(f"{value:12.3f}" for value in values))


def run(size: Size) -> None:
    net = chain(size.features)
    train, test = (blurred_noise(size.images, size.side, seed) for seed in (1, 2))
    print(f"{_LAYERS} convolutions of {size.features} features, images {tuple(test.shape)}")
    truncated, kept = keep_top_components(net, size.top_k)
    shares = ", ".join(f"{share:.1%}" for share in kept)
    print(f"energy in the top {size.top_k} components of each weight: {shares}\n")
    base = copy.deepcopy(net)
    hardened = loricate.harden_module(
        net, train, epsilon=_EPSILON, rank=size.rank, steps=size.steps
    )
    merged = hardened.merged()
    with torch.no_grad():
        difference = (merged(test) - net(test)).abs().max() / net(test).abs().max()
    print(f"drift at epsilon {_EPSILON * 255:g}/255   clean       noise      attack")
    for name, candidate in (
        ("base", base),
        (f"top {size.top_k} components", truncated),
        (f"low-rank update of {size.rank}", merged),
    ):
        measure(name, candidate, base, test, size.attack_steps)
    share = hardened.log.parameters / hardened.log.parameters_target
    print(f"\nthe update has {share:.1%} of the parameters of the weights")
    print(f"merged weights and attached adapter differ by {float(difference):.1e}")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--full", action="store_true", help="the article's size; wants a GPU")
    default = Size()
    for field in Size.__dataclass_fields__:
        flag = "--" + field.replace("_", "-")
        parser.add_argument(flag, type=int, help=f"default {getattr(default, field)}")
    given = vars(parser.parse_args(arguments))
    chosen = FULL if given.pop("full") else default
    run(Size(**{k: getattr(chosen, k) if v is None else v for k, v in given.items()}))


if __name__ == "__main__":
    main()
