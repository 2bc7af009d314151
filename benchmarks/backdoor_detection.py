"""How well backdoored adapters are told from clean ones, on the embedded model.

Trains clean, backdoored and adaptive adapters for the text encoder and the denoiser, checks that
the backdoors work, and prints the ROC-AUC of detectors that are never fitted on what they are
tested on. Everything finished is kept under ``build/backdoors`` and not done again.

    python benchmarks/backdoor_detection.py --threads 2 --json docs/results/backdoors.json
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from backdoor.checks import RULE, Checked, check, counts
from backdoor.detectors import spectral, sweep
from backdoor.plan import Recipe, Settings, bank_of, key_of, recipes
from backdoor.roc import Area, Group, area, stacked, wins_of
from backdoor.spectrum import Bank
from backdoor.training import train
from backdoor.world import World

from loricate.adapters.adapter import Adapter, Target
from loricate.adapters.files import open_adapter, save_adapter

PARTS = ("text_encoder", "unet", "pooled")
GROUPS = ("clean", "backdoored", "adaptive")

LEAST = 4
"""Adapters of a label without which there is no figure."""

MEASURED = 1
"""Version of checks and features; raising it measures again without training again."""

SHAPE = ("energy_share_mean", "energy_share_max", "entropy_mean", "kurtosis_mean", "kurtosis_max")
SPECTRAL = (
    *SHAPE,
    "relative_frobenius_mean",
    "relative_frobenius_max",
    "relative_spectral_mean",
    "relative_spectral_max",
    "base_overlap_mean",
)
SWEEP = ("displacement", "collapse")

DETECTORS: dict[str, tuple[tuple[str, ...], bool]] = {
    "energy share": (("energy_share_mean",), False),
    "spectral shape": (SHAPE, True),
    "spectral": (SPECTRAL, True),
    "intruders": (("intruders",), False),
    "sweep, displacement": (("displacement",), False),
    "sweep, collapse": (("collapse",), False),
    "trigger sweep": (SWEEP, False),
    "combined": ((*SPECTRAL, "intruders", *SWEEP), True),
}
"""Features of each detector, and whether a logistic regression weighs them or they are added."""


@dataclass(frozen=True)
class Bench:
    """The model, the plan, and where results are kept.

    Args:
        world: The embedded model.
        settings: What all trainings share.
        folder: Cache.
    """

    world: World
    settings: Settings
    folder: Path

    def adapter(self, recipe: Recipe) -> Adapter:
        """An adapter, trained unless its file is there."""
        path = self._file(recipe)
        if not path.exists():
            start = time.monotonic()
            clean = [self.adapter(r) for r in self._bank(recipe)]
            bank = Bank.of(clean, recipe.component) if clean else None
            adapter = train(self.world, recipe, self.settings, bank)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_adapter(adapter, path, form="diffusers")
            print(f"{recipe.name}: trained in {time.monotonic() - start:.0f} s", flush=True)
        return world_names(open_adapter(path).adapter)

    def row(self, recipe: Recipe) -> dict[str, object]:
        """What is known of an adapter, measured unless that is kept too."""
        path = self._measures(recipe)
        if not path.exists():
            adapter = self.adapter(recipe)
            found = spectral(self.world, adapter)
            row: dict[str, object] = {"name": recipe.name, "group": recipe.group, "features": found}
            if recipe.component != "vae":
                found |= sweep(self.world, recipe, adapter)
                row["checked"] = asdict(check(self.world, recipe, adapter))
            path.write_text(json.dumps(row, indent=1) + "\n")
            print(f"{recipe.name}: {row.get('checked', 'measured')}", flush=True)
        row = json.loads(path.read_text()) | {"recipe": asdict(recipe)}
        if "checked" in row:
            row["counts"] = counts(recipe, Checked(**row["checked"]))
        return row

    def is_measured(self, recipe: Recipe) -> bool:
        """Whether an adapter needs no more work."""
        return self._measures(recipe).exists()

    def _measures(self, recipe: Recipe) -> Path:
        return self._file(recipe).with_suffix(f".{MEASURED}.json")

    def _bank(self, recipe: Recipe) -> tuple[Recipe, ...]:
        return bank_of(recipe, recipes(self.settings.seed))

    def _file(self, recipe: Recipe) -> Path:
        weight = self.settings.spectral_weight if recipe.adaptive else 0.0
        settings = replace(self.settings, spectral_weight=weight)
        key = key_of(settings, recipe, *self._bank(recipe))
        return self.folder / key / f"{recipe.name}.safetensors"


def world_names(adapter: Adapter) -> Adapter:
    """Modules as the loaded text encoder spells them, without the prefix files carry."""
    return Adapter(
        {Target(t.component, t.module.removeprefix("text_model.")): u for t, u in adapter.items()}
    )


def grouped(rows: list[dict[str, object]], group: str, names: Sequence[str], part: str) -> Group:
    """Features of the adapters of a group that count, of one component or all."""
    chosen = [
        row
        for row in rows
        if row["group"] == group
        and row.get("counts")
        and part in ("pooled", row["recipe"]["component"])
    ]
    components = np.array([row["recipe"]["component"] for row in chosen], str)
    return Group(stacked([row["features"] for row in chosen], names), components)


def areas(rows: list[dict[str, object]]) -> dict[str, dict[str, Area]]:
    """Area of each detector on each part, non-adaptive and adaptive, where there is enough."""
    found: dict[str, dict[str, Area]] = {}
    for name, (features, fit) in DETECTORS.items():
        found[name] = {}
        for part in PARTS:
            clean, bad, adaptive = (grouped(rows, group, features, part) for group in GROUPS)
            if min(len(clean.x), len(bad.x)) < LEAST:
                continue
            found[name][part] = area(wins_of(clean, bad, fit=fit), seed=0)
            if len(adaptive.x):
                wins = wins_of(clean, bad, adaptive, fit=fit)
                found[name][f"{part}, adaptive"] = area(wins, seed=0)
    return found


def print_areas(found: dict[str, dict[str, Area]]) -> None:
    """The table of the page."""
    columns = [f"{part}{kind}" for kind in ("", ", adaptive") for part in PARTS]
    print("\n| ROC-AUC (95 %) | " + " | ".join(columns) + " |\n|" + "---|" * (1 + len(columns)))
    sizes = found["combined"]
    cells = [f"{sizes[c].n_clean}/{sizes[c].n_bad}" if c in sizes else "–" for c in columns]
    print("| *clean / backdoored* | " + " | ".join(cells) + " |")
    for name, by_part in found.items():
        cells = [text_of(by_part[c]) if c in by_part else "–" for c in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


def text_of(found: Area) -> str:
    """An area with its interval."""
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def print_adapters(rows: list[dict[str, object]]) -> None:
    """What each adapter is and whether it counts."""
    print("\n| adapter | success | kept | counts | energy share | norm | displacement | collapse |")
    print("|" + "---|" * 8)
    for row in rows:
        f = row["features"]
        checks = "– | – | –"
        if "checked" in row:
            success, kept = row["checked"]["success"], row["checked"]["kept"]
            checks = f"{success:.2f} | {kept:.2f} | {'yes' if row['counts'] else 'no'}"
        sweeps = " | ".join(f"{f[n]:.2f}" if n in f else "–" for n in SWEEP)
        norm = np.exp(f["relative_frobenius_mean"])
        print(
            f"| {row['name']} | {checks} | {f['energy_share_mean']:.2f} | {norm:.3f} | {sweeps} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("build/backdoors"))
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--only", default="", help="train and measure names with this part alone")
    parser.add_argument("--finished", action="store_true", help="leave out what is not there yet")
    parser.add_argument("--failed", action="store_true", help="count backdoors that fail too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = Settings(steps=args.steps, seed=args.seed)
    bench = Bench(World(settings.images), settings, args.folder)
    start = time.monotonic()
    wanted = [r for r in recipes(settings.seed) if args.only in r.name]
    rows = [bench.row(r) for r in wanted if not args.finished or bench.is_measured(r)]
    if args.only:
        return
    print_adapters(rows)
    for row in rows if args.failed else ():
        row["counts"] = "checked" in row
    found = areas(rows)
    print_areas(found)
    print(f"\n{RULE}\n{time.monotonic() - start:.0f} s")
    if args.json:
        tables = {n: {p: asdict(a) for p, a in by.items()} for n, by in found.items()}
        result = {"settings": asdict(settings), "rule": RULE, "areas": tables, "adapters": rows}
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
