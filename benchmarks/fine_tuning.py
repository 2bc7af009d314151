"""Whether poisoned pictures harm a LoRA fine-tune of the embedded model, and what a gate saves.

Fine-tunes on clean, noised and poisoned (ACE, ACE+, ASPL) pictures of held-out concepts, paired by
concept and seed; trains gated adapters (LoRD) under the same fine-tunes, and attacks them
adaptively through their gates. Everything finished is kept under ``build/fine_tuning``.

    python benchmarks/fine_tuning.py --json docs/results/fine_tuning.json
    python benchmarks/fine_tuning.py --quick
    python benchmarks/fine_tuning.py --no-run      # tables of what is finished
"""

import argparse
import json
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from poisoning.bench import Bench, Kind
from poisoning.cache import Unfinished
from poisoning.plan import QUICK, Plan

from loricate.evaluation.fine_tuning import METRICS, harm
from loricate.evaluation.statistics import Interval

PHASES: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("base", ("clean", "noise", "ace")),
    ("untuned", ("clean",)),
    ("lord", ("ace", "adaptive", "clean")),
    ("plain", ("ace", "clean")),
    ("lord", ("reoptimized",)),
    ("base", ("ace_plus", "aspl")),
)
"""Models and what they are fine-tuned on, what is asked first in front."""

COMPARISONS = (
    ("base/clean", "untuned/clean", "not fine-tuning at all"),
    ("base/clean", "base/noise", "noise of equal norm"),
    ("base/clean", "base/ace", "ACE"),
    ("base/noise", "base/ace", "ACE beyond noise"),
    ("base/clean", "base/ace_plus", "ACE+"),
    ("base/noise", "base/ace_plus", "ACE+ beyond noise"),
    ("base/ace", "base/ace_plus", "ACE+ beyond ACE"),
    ("base/clean", "base/aspl", "ASPL"),
    ("base/noise", "base/aspl", "ASPL beyond noise"),
    ("base/aspl", "base/ace", "ACE beyond ASPL"),
    ("base/clean", "lord/clean", "LoRD on clean pictures"),
    ("lord/clean", "lord/ace", "ACE under LoRD"),
    ("lord/clean", "lord/reoptimized", "ACE through LoRD"),
    ("lord/clean", "lord/adaptive", "the adaptive attack under LoRD"),
    ("lord/ace", "lord/reoptimized", "ACE through LoRD beyond ACE, under LoRD"),
    ("lord/clean", "lord/strongest", "the strongest of the three under LoRD"),
    ("base/ace", "lord/strongest", "that, beyond ACE without LoRD"),
    ("plain/clean", "plain/ace", "ACE under a plain LoRA"),
    ("lord/ace", "base/ace", "ACE without LoRD, beyond ACE with it"),
    ("lord/ace", "plain/ace", "ACE with a plain LoRA, beyond ACE with LoRD"),
    ("lord/ace", "lord/adaptive", "the adaptive attack beyond ACE, under LoRD"),
)
"""Pairs whose difference is told, as the harm the second does beyond the first."""

UNDER_LORD = ("lord/ace", "lord/reoptimized", "lord/adaptive")
"""Attacks on the gated model, of which an attacker would take the one that harms most."""

Rows = dict[str, dict[tuple[str, int], dict[str, float]]]


def measure(bench: Bench) -> Rows:
    """Every cell there is, by model and pictures."""
    found: Rows = {}
    for kind, conditions in PHASES:
        for cell in bench.cells():
            for condition in conditions:
                with suppress(Unfinished):
                    row = bench.cell(kind, condition, *cell)
                    found.setdefault(f"{kind}/{condition}", {})[cell] = row
    return found | {"lord/strongest": strongest(found)}


def strongest(found: Rows) -> dict[tuple[str, int], dict[str, float]]:
    """The attack with the highest loss on each cell of the gated model that has met them all."""
    tables = [found.get(key, {}) for key in UNDER_LORD]
    cells = set.intersection(*map(set, tables))
    return {c: max((rows[c] for rows in tables), key=lambda row: row["loss"]) for c in cells}


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
        if not rows:
            continue
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
    found = measure(Bench.of(plan, options.folder, run=not options.no_run))
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
        options.json.write_text(json.dumps({"plan": plan.facts, "cells": cells, "harm": harms}))


if __name__ == "__main__":
    main()
