"""Whether poisoned pictures harm a LoRA fine-tune of the embedded model, and what a gate saves.

Fine-tunes on clean, noised and poisoned (ACE, ACE+) pictures of held-out concepts, paired by
concept and seed; trains gated adapters (LoRD) under the same fine-tunes, and attacks them
adaptively through their gates. Everything finished is kept under ``build/fine_tuning``.

    python benchmarks/fine_tuning.py --json docs/results/fine_tuning.json
    python benchmarks/fine_tuning.py --quick
    python benchmarks/fine_tuning.py --no-run      # tables of what is finished
"""

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from loricate import models
from loricate.attacks.pgd import PGD
from loricate.attacks.poison import Poison
from loricate.basics.seeds import derive_seed
from loricate.basics.spec import to_table
from loricate.core.balls import Linf
from loricate.core.family import EditSettings
from loricate.core.generators import sample_seeds
from loricate.core.objective import Objective
from loricate.core.surrogate import FineTuneSettings, Readout
from loricate.core.threat import ThreatModel
from loricate.core.training import silent
from loricate.defenses._gated import GatedTarget
from loricate.defenses._training import Schedule
from loricate.defenses.gated_lora import GatedLora
from loricate.evaluation.fine_tuning import METRICS, Concept, Trial, fine_tune, harm, noised
from loricate.evaluation.statistics import Interval
from loricate.families._fine_tuning import attention_layers
from loricate.families._judge import ClipJudge
from loricate.families.sd15 import SD15
from loricate.objectives.directed_noise import DirectedNoise
from loricate.objectives.gate_evasion import GateEvasion
from loricate.surfaces.attach import attach
from loricate.surfaces.gated import load_gated, watched

TEMPLATE = "a picture of a {}"
SHIFTS = ((0, 0), (2, -1))
HELD_OUT_SHIFTS = ((-2, 2), (-1, -3), (3, 1))
LATENT_WEIGHT = 1.0
"""Weight of the latent term that makes ACE of ACE+."""


@dataclass(frozen=True)
class Plan:
    """Sizes of everything.

    Args:
        concepts: Captions of held-out concepts, both styles of which are shipped.
        seeds: Seeds of fine-tunes, attacks and gated trainings.
        epsilon: Radius of the pictures' ball in gray levels.
        trial: The victim's fine-tuning and how it is judged.
        surrogate: The attacker's.
        poison: The attack.
        draws: Timesteps and noises the attack's gradient is averaged over.
        gate: The defense.
        calibration: Pictures a gate is trained on.
        rank_plain: Rank of the plain adapter of about as many parameters.
    """

    concepts: tuple[str, ...] = ("tiger face", "honeybee", "crown")
    seeds: tuple[int, ...] = (0, 1, 2)
    epsilon: int = 16
    trial: Trial = field(
        default_factory=lambda: Trial(
            settings=FineTuneSettings(steps=30, learning_rate=3e-3, batch_size=8),
            sampling=EditSettings(num_inference_steps=8, guidance=2.0),
        )
    )
    surrogate: FineTuneSettings = field(
        default_factory=lambda: FineTuneSettings(steps=8, learning_rate=3e-3, batch_size=8)
    )
    poison: Poison = field(
        default_factory=lambda: Poison(rounds=3, inner=PGD(steps=7, random_start=False))
    )
    draws: int = 2
    gate: GatedLora = field(
        default_factory=lambda: GatedLora(
            schedule=Schedule(steps=100, batch_size=8, learning_rate=1e-2)
        )
    )
    calibration: int = 24
    rank_plain: int = 7


QUICK = Plan(
    concepts=("tiger face",),
    seeds=(0, 1),
    trial=Trial(
        settings=FineTuneSettings(steps=6, learning_rate=3e-3, batch_size=4),
        sampling=EditSettings(num_inference_steps=3, guidance=2.0),
        n_generated=2,
        n_draws=2,
    ),
    surrogate=FineTuneSettings(steps=2, learning_rate=3e-3, batch_size=4),
    poison=Poison(rounds=2, inner=PGD(steps=2, random_start=False)),
    draws=1,
    gate=GatedLora(schedule=Schedule(steps=4, batch_size=4, learning_rate=3e-3)),
    calibration=4,
)


class Bench:
    """The model, the plan, and where results are kept.

    Args:
        plan: What is measured.
        folder: Cache.
        run: Whether to measure what is not there yet.
    """

    def __init__(self, plan: Plan, folder: Path, *, run: bool) -> None:
        self.plan, self.run = plan, run
        self.base = SD15.load(models.path())
        self.judge = ClipJudge(models.path() / "judge_independent")
        self.threat = ThreatModel(ball=Linf(epsilon=plan.epsilon / 255), eot_samples=plan.draws)
        words = json.dumps(_facts(plan), sort_keys=True)
        self.folder = folder / hashlib.sha256(words.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.concepts = {name: _concept(name) for name in plan.concepts}

    def tensor(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor, made unless its file is there."""
        path = self.folder / f"{name}.npy"
        if not path.exists():
            self._require_run()
            _atomically(path, lambda temporary: np.save(temporary, make().numpy()))
        return torch.from_numpy(np.load(path, allow_pickle=False))

    def figures(self, name: str, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Figures, measured unless their file is there."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            self._require_run()
            start = time.process_time()
            row = measure()
            row["cpu_s"] = time.process_time() - start
            path.write_text(json.dumps(row))
            print(f"  {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in row.items()), flush=True)
        return json.loads(path.read_text())

    def _require_run(self) -> None:
        if not self.run:
            raise Unfinished

    def cells(self) -> Iterator[tuple[str, int]]:
        """Every concept with every seed, seeds first."""
        for seed in self.plan.seeds:
            for name in self.concepts:
                yield name, seed

    def pictures(self, name: str, seed: int, condition: str) -> Tensor:
        """What is fine-tuned on: clean, noised, or poisoned through the undefended model."""
        x = self.concepts[name].train
        match condition:
            case "clean":
                return x
            case "noise":
                return noised(x, self.threat.ball, seed)
        weight = LATENT_WEIGHT if condition == "ace_plus" else 0.0
        objective = DirectedNoise(latent_weight=weight)
        key = f"{condition}-{_slug(name)}-{seed}"
        return self.tensor(key, lambda: self.poisoned(self.base, name, seed, objective))

    def poisoned(
        self, family: SD15, name: str, seed: int, objective: Objective, readout: Readout = "noise"
    ) -> Tensor:
        """Pictures of a concept poisoned through a family."""
        x = self.concepts[name].train
        prompts = [self.concepts[name].prompt] * len(x)
        # The attacker does not know the victim's seed.
        surrogate = family.fine_tuning(
            prompts, self.plan.surrogate, readout=readout, seed=derive_seed(seed, "attacker")
        )
        seeds = sample_seeds(seed, range(len(x)), "poison")
        result = self.plan.poison(surrogate, objective, self.threat, x, seeds=seeds)
        return result.adversarial

    def cell(self, kind: str, name: str, seed: int, condition: str) -> dict[str, float]:
        """Figures of one model, fine-tuned on the pictures of one condition."""
        key = f"{kind}-{condition}-{_slug(name)}-{seed}"
        return self.figures(key, lambda: self._measured(kind, name, seed, condition))

    def _measured(self, kind: str, name: str, seed: int, condition: str) -> dict[str, float]:
        trial, family = self.plan.trial, self.base
        match kind:
            case "untuned":
                still = replace(trial.settings, learning_rate=1e-12, steps=1)
                trial = replace(trial, settings=still)
            case "lord":
                family = self.gated(seed)
            case "plain":
                family = self.plain(seed)
        if condition in THROUGH_THE_GATE:
            objective = THROUGH_THE_GATE[condition]
            pictures = self.tensor(
                f"{condition}-{_slug(name)}-{seed}",
                lambda: self.poisoned(family, name, seed, objective, readout="gated"),
            )
        else:
            pictures = self.pictures(name, seed, condition)
        row = fine_tune(family, self.concepts[name], pictures, trial, self.judge, seed).as_dict()
        return row | ({"gate": self._gate(family, pictures, name)} if kind == "lord" else {})

    @torch.no_grad()
    def _gate(self, family: SD15, pictures: Tensor, name: str) -> float:
        """Mean gate on pictures at many timesteps, before any fine-tune."""
        latents = family.vae_encoder()(pictures, [0] * len(pictures))
        error = family.denoising_error([self.concepts[name].prompt] * len(pictures))
        rows, means = torch.arange(len(pictures)), []
        for draw in range(8):
            with watched(family.module("unet")) as gates:
                error(latents, rows, sample_seeds(draw, range(len(pictures)), "gate"))
            means.append(gates.mean().mean())
        return float(torch.stack(means).mean())

    def gated(self, seed: int) -> SD15:
        """The model with a frozen gated adapter, trained unless its file is there."""
        unet = copy.deepcopy(self.base.module("unet"))
        path = self.folder / f"gate-{seed}.safetensors"
        if path.exists():
            load_gated(unet, path)
            return self.base.with_module("unet", unet)
        self._require_run()
        family, prompts = self.base.with_module("unet", unet), _calibration(self.plan)[1]
        target = GatedTarget(unet, attention_layers(unet), family.denoising_error(prompts))
        trained = self.plan.gate.train_gated(
            target, *self._pairs(), seed=derive_seed(seed, "gate"), observe=silent
        )
        trained.attached.save(path)
        print("  gate", seed, {k: round(v, 3) for k, v in trained.log.curves[-1].items()})
        return family

    def plain(self, seed: int) -> SD15:
        """The model with a merged plain LoRA, trained on the same pictures for the same steps."""
        unet = copy.deepcopy(self.base.module("unet"))
        family, prompts = self.base.with_module("unet", unet), _calibration(self.plan)[1]
        path = self.folder / f"plain-{seed}.pt.npy"
        ranks = dict.fromkeys(attention_layers(unet), self.plan.rank_plain)
        attached = attach(unet, ranks, seed=derive_seed(seed, "gate"))
        if path.exists():
            flat = torch.from_numpy(np.load(path, allow_pickle=False))
            nn.utils.vector_to_parameters(flat, attached.parameters())
        else:
            self._require_run()
            _descend(attached.parameters(), family.denoising_error(prompts), self._pairs(), self)
            flat = nn.utils.parameters_to_vector(attached.parameters()).detach()
            _atomically(path, lambda temporary: np.save(temporary, flat.numpy()))
        return self.base.with_module("unet", attached.merge())

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Latents of calibration pictures, clean and poisoned."""
        x, prompts = _calibration(self.plan)
        encode = self.base.vae_encoder()

        def poisoned() -> Tensor:
            surrogate = self.base.fine_tuning(prompts, self.plan.surrogate, seed=17)
            objective = DirectedNoise()
            seeds = sample_seeds(17, range(len(x)), "poison")
            return self.plan.poison(surrogate, objective, self.threat, x, seeds=seeds).adversarial

        attacked = self.tensor("calibration", poisoned)
        with torch.no_grad():
            return encode(x, [0] * len(x)), encode(attacked, [0] * len(x))


class Unfinished(Exception):
    """Something is not measured yet, and may not be now."""


def _descend(
    parameters: list[nn.Parameter],
    error: Callable[[Tensor, Tensor, list[int]], Tensor],
    pair: tuple[Tensor, Tensor],
    bench: Bench,
) -> None:
    """The training of the gate, without a gate."""
    schedule = bench.plan.gate.schedule
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        generator = torch.Generator().manual_seed(derive_seed(0, "plain", step))
        rows = torch.randperm(len(pair[0]), generator=generator)[: schedule.batch_size]
        seeds = sample_seeds(0, rows.tolist(), "plain", step)
        latents = torch.cat([each[rows] for each in pair])
        loss = 2 * error(latents, torch.cat([rows, rows]), [*seeds, *seeds]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimizer.step()


def _facts(plan: Plan) -> dict[str, object]:
    """The plan as a table, which names the cache."""
    facts = {k: v for k, v in vars(plan).items() if k not in ("trial", "concepts", "seeds")}
    trial = dict(vars(plan.trial))
    return {
        k: to_table(v) if hasattr(v, "registry_kind") or hasattr(v, "steps") else _plain(v)
        for k, v in (facts | trial).items()
    }


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | str) else repr(value)


def _concept(name: str) -> Concept:
    x = _pictures("test", lambda caption, _: caption == name)[0]
    train, held_out = (
        torch.cat([_shifted(x, *shift) for shift in shifts]) for shifts in (SHIFTS, HELD_OUT_SHIFTS)
    )
    return Concept(TEMPLATE.format(name), train, held_out)


def _calibration(plan: Plan) -> tuple[Tensor, list[str]]:
    x, captions = _pictures("calibration", lambda _, index: index < plan.calibration)
    return x, [TEMPLATE.format(c) for c in captions]


def _pictures(name: str, wanted: Callable[[str, int], bool]) -> tuple[Tensor, list[str]]:
    with np.load(models.path() / "images" / f"{name}.npz", allow_pickle=False) as table:
        rows = [i for i, c in enumerate(table["captions"]) if wanted(str(c), i)]
        x = torch.from_numpy(table["images"][rows]).permute(0, 3, 1, 2).float() / 255
        return x.contiguous(), [str(table["captions"][i]) for i in rows]


def _shifted(x: Tensor, right: int, down: int) -> Tensor:
    padded = nn.functional.pad(x, (4,) * 4, mode="replicate")
    height, width = x.shape[-2:]
    return padded[..., 4 + down : 4 + down + height, 4 + right : 4 + right + width].contiguous()


def _slug(name: str) -> str:
    return name.replace(" ", "_")


def _atomically(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f"tmp-{path.name}")
    write(temporary)
    temporary.rename(path)


THROUGH_THE_GATE = {
    "reoptimized": GateEvasion(gate_weight=0.0),
    "adaptive": GateEvasion(),
}
"""Attacks on the defended model; the other poisons know the undefended one alone."""

PHASES = (
    ("base", ("clean", "noise", "ace")),
    ("untuned", ("clean",)),
    ("lord", ("ace", "adaptive", "clean")),
    ("plain", ("ace", "clean")),
    ("lord", ("reoptimized",)),
    ("base", ("ace_plus",)),
)
"""Models and what they are fine-tuned on, what is asked first in front."""

Rows = dict[str, dict[tuple[str, int], dict[str, float]]]


def measure(bench: Bench) -> Rows:
    """Every cell there is, by model and pictures."""
    found: Rows = {}
    for kind, conditions in PHASES:
        for name, seed in bench.cells():
            for condition in conditions:
                key = f"{kind}/{condition}"
                with suppress(Unfinished):
                    row = bench.cell(kind, name, seed, condition)
                    found.setdefault(key, {})[name, seed] = row
    return found


COMPARISONS = (
    ("base/clean", "untuned/clean", "not fine-tuning at all"),
    ("base/clean", "base/noise", "noise of equal norm"),
    ("base/clean", "base/ace", "ACE"),
    ("base/noise", "base/ace", "ACE beyond noise"),
    ("base/clean", "base/ace_plus", "ACE+"),
    ("base/noise", "base/ace_plus", "ACE+ beyond noise"),
    ("base/clean", "lord/clean", "LoRD on clean pictures"),
    ("lord/clean", "lord/ace", "ACE under LoRD"),
    ("lord/clean", "lord/reoptimized", "ACE through LoRD"),
    ("lord/clean", "lord/adaptive", "the adaptive attack under LoRD"),
    ("plain/clean", "plain/ace", "ACE under a plain LoRA"),
    ("lord/ace", "base/ace", "ACE without LoRD, beyond ACE with it"),
    ("lord/ace", "plain/ace", "ACE with a plain LoRA, beyond ACE with LoRD"),
    ("lord/ace", "lord/adaptive", "the adaptive attack beyond ACE, under LoRD"),
)
"""Pairs whose difference is told, as the harm the second does beyond the first."""


def compared(found: Rows) -> dict[str, dict[str, Interval]]:
    """Paired harms with intervals, for the cells both sides have."""
    table = {}
    for first, second, words in COMPARISONS:
        before, after = found.get(first, {}), found.get(second, {})
        cells = sorted(before.keys() & after.keys())
        if len(cells) > 1:
            pair = [before[c] for c in cells], [after[c] for c in cells]
            table[words] = harm(*pair, seed=0, concepts=[concept for concept, _ in cells])
    return table


def show(found: Rows, table: dict[str, dict[str, Interval]]) -> None:
    """Both tables, as Markdown."""
    print("\n| model / pictures | n | " + " | ".join(METRICS) + " | gate |")
    print("|---|---|" + "---|" * (len(METRICS) + 1))
    for key, rows in found.items():
        means = [np.mean([row[m] for row in rows.values()]) for m in METRICS]
        gates = [row["gate"] for row in rows.values() if "gate" in row]
        gate = f"{np.mean(gates):.3f}" if gates else ""
        print(f"| {key} | {len(rows)} | " + " | ".join(f"{m:.4f}" for m in means) + f" | {gate} |")
    print("\nHarm, paired, 95 % intervals; `*`: the interval is above or below 0.\n")
    print("| harm of | n | " + " | ".join(METRICS) + " |")
    print("|---|---|" + "---|" * len(METRICS))
    for words, harms in table.items():
        cells = [_cell(harms[m]) for m in METRICS]
        print(f"| {words} | {harms['loss'].n} | " + " | ".join(cells) + " |")


def _cell(interval: Interval) -> str:
    mark = "*" if interval.low > 0 or interval.high < 0 else ""
    return f"{interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]{mark}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run of tiny sizes")
    parser.add_argument("--no-run", action="store_true", help="only show what is finished")
    parser.add_argument("--json", type=Path, help="where figures go")
    parser.add_argument("--folder", type=Path, default=Path("build/fine_tuning"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = QUICK if options.quick else Plan()
    start = time.process_time()
    found = measure(Bench(plan, options.folder, run=not options.no_run))
    table = compared(found)
    show(found, table)
    spent = sum(row["cpu_s"] for rows in found.values() for row in rows.values())
    print(f"\n{time.process_time() - start:.0f} s of processor now, {spent:.0f} s in all the cells")
    if options.json:
        cells = {
            key: [{"concept": c, "seed": s} | row for (c, s), row in rows.items()]
            for key, rows in found.items()
        }
        harms = {words: {m: asdict(i) for m, i in each.items()} for words, each in table.items()}
        options.json.write_text(json.dumps({"plan": _facts(plan), "cells": cells, "harm": harms}))


if __name__ == "__main__":
    main()
