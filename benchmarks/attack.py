"""What the harness around PGD costs: against bare forward and backward passes, and foolbox.

All three climb the same objective on the same encoder for as many steps, in turns, so that a busy
machine slows all of them; ratios are medians over the turns.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from loricate.attacks.pgd import PGD
from loricate.core.balls import Linf
from loricate.core.threat import ThreatModel
from loricate.objectives.latent_shift import LatentShift
from loricate.surfaces.module import ModuleSurface
from loricate.testing.surfaces import pictures

_EPSILON = 8 / 255


def encoder() -> nn.Module:
    """About the size of the embedded model's encoder."""
    channels, layers = (32, 64, 64), [nn.Conv2d(3, 32, 3, padding=1)]
    for before, after in zip((32, *channels), channels, strict=False):
        layers += [nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, after, 3, 2, 1)]
    return nn.Sequential(*layers, nn.Conv2d(64, 4, 1)).eval()


def bare(model: nn.Module, x: Tensor, steps: int) -> Tensor:
    """The passes alone: nothing is projected, clipped, kept or scored."""
    reference, z = model(x).detach(), x
    for _ in range(steps):
        z = z.detach().requires_grad_()
        value = (model(z) - reference).flatten(1).pow(2).sum(1)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        z = z + 0.01 * gradient.sign()
    return z


def ours(model: nn.Module, x: Tensor, steps: int) -> Tensor:
    surface, threat = ModuleSurface(model), ThreatModel(ball=Linf(epsilon=_EPSILON))
    return PGD(steps=steps)(surface, LatentShift(), threat, x, seeds=range(len(x))).raw


def foolbox_pgd(model: nn.Module, x: Tensor, steps: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import eagerpy
        import foolbox

    class LatentPGD(foolbox.attacks.LinfPGD):
        def get_loss_fn(self, model, labels):
            return lambda z: (model(z) - eagerpy.astensor(reference)).square().sum()

    reference = model(x).detach()
    attack = LatentPGD(rel_stepsize=2.5 / steps, steps=steps, random_start=False)
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    start = foolbox.criteria.Misclassification(torch.zeros(len(x), dtype=torch.long))
    return attack.run(peer, x, start, epsilon=_EPSILON)


RUNS: dict[str, Callable[[nn.Module, Tensor, int], Tensor]] = {
    "bare passes": bare,
    "loricate": ours,
    "foolbox": foolbox_pgd,
}


def seconds(run: Callable[[], Tensor]) -> float:
    start = time.process_time()  # of this process alone, whatever else the machine does
    run()
    return time.process_time() - start


def measure(steps: int, batch: int, size: int, turns: int) -> dict[str, float]:
    """Ratio of each run's time to that of the bare passes, median over turns."""
    torch.set_num_threads(1)
    model, x = encoder(), pictures(batch, size=size, dtype=torch.float32)
    for run in RUNS.values():
        run(model, x, 1)
    times: dict[str, list[float]] = {name: [] for name in RUNS}
    for _ in range(turns):
        for name, run in RUNS.items():
            times[name].append(seconds(lambda run=run: run(model, x, steps)))
    pairs = {name: zip(each, times["bare passes"], strict=True) for name, each in times.items()}
    return {name: statistics.median(a / b for a, b in pair) for name, pair in pairs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where to write the ratios")
    settings = vars(parser.parse_args())
    target = settings.pop("json")
    ratios = measure(**settings)
    print(f"{'PGD of ' + str(settings['steps']) + ' steps':20}  time over bare passes")
    for name, ratio in ratios.items():
        print(f"{name:20}  {ratio:.3f}")
    if target:
        target.write_text(json.dumps({"settings": settings, "ratios": ratios}, indent=2) + "\n")


if __name__ == "__main__":
    main()
