"""A text encoder hardened against typos, beside its control, on the embedded model.

Three subjects: the base, a LEAF adapter, and a control of equal steps and ranks that sees random
typos instead of an attack. Prompts are held out, attacks are adaptive, and shifts are distances
from what the denoiser was trained on, in units of how far prompts spread. Killed, it continues.

    OMP_NUM_THREADS=1 python benchmarks/prompts.py --out build/prompts
"""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from loricate.attacks.char_search import CharSearch
from loricate.attacks.charmer import Charmer
from loricate.attacks.homoglyph import Homoglyph
from loricate.attacks.random_characters import RandomCharacters
from loricate.basics.spec import to_toml
from loricate.core.family import EditSettings, Family
from loricate.core.prompt_attack import PromptAttack
from loricate.core.text_budgets import CharBudget
from loricate.defenses._prompt_target import PromptTarget
from loricate.defenses._training import Schedule
from loricate.defenses.leaf_lora import LeafLora
from loricate.evaluation.prompts import PromptEvaluation, PromptRow, PromptTrial
from loricate.evaluation.statistics import (
    Interval,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    mcnemar_exact,
    wilson,
)
from loricate.recipes._data import calibration_captions, held_out_pictures
from loricate.recipes._models import judge_of, load_family, model_path

WINDOW = 10
"""Tokens read in training: nearly all captions fit, and fewer places are faster."""

JUDGES = ("judge", "judge_independent")
BASE, LEAF, CONTROL = "base", "LEAF", "control"
NATURAL = 0.95
"""A picture is broken when it fits worse than this share of pictures of another seed."""

Rows = list[PromptRow]


@dataclass(frozen=True)
class Run:
    """What the flags say."""

    out: Path
    n_prompts: int
    steps: int
    max_drift: float
    rate: float
    rank_budget: float
    inner: int
    places: int
    samples: int
    seed: int
    attacks: list[str] | None

    @cached_property
    def model(self) -> Path:
        """The embedded model."""
        return model_path("emoji-sd")

    @cached_property
    def base(self) -> Family:
        """The undefended pipeline."""
        return load_family(self.model, "cpu")

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Held-out captions, each once."""
        pictures = held_out_pictures(self.model, None, self.base.image_size)
        return tuple(dict.fromkeys(pictures.prompts))[: self.n_prompts]

    def trials(self) -> dict[str, PromptTrial]:
        """What every subject faces, by name."""
        search, charmer = CharSearch(n_samples=self.samples), Charmer(n_places=self.places)
        trials = {
            "random typo, k = 1": _trial(RandomCharacters(), 1),
            "charmer, k = 1": _trial(charmer, 1, draws=True),
            "char_search, k = 2": _trial(search, 2, draws=True),
            "char_search, k = 4": _trial(search, 4),
            "homoglyph, k = 1": _trial(Homoglyph(), 1),
        }
        return {name: trials[name] for name in self.attacks or trials}

    def spec(self, inner: PromptAttack) -> LeafLora:
        """The training, around an attack or what stands in for one."""
        schedule = Schedule(steps=self.steps, batch_size=32, learning_rate=self.rate)
        return LeafLora(
            inner=inner,
            rank_budget=self.rank_budget,
            max_drift=self.max_drift,
            schedule=schedule,
        )

    def trained(self, name: str, inner: PromptAttack) -> Family:
        """A pipeline whose text encoder was trained, from its checkpoint if there is one."""
        twin = self.base.with_module(
            "text_encoder", copy.deepcopy(self.base.module("text_encoder"))
        )
        surface = twin.text_encoder(window=WINDOW)
        known = [c for c in calibration_captions(self.model) if surface.n_tokens(c) < WINDOW - 3]
        trained = self.spec(inner).train(
            PromptTarget(twin.module("text_encoder"), surface),
            known,
            seed=self.seed,
            observe=_report(name),
            checkpoint=self.out / f"{name}.safetensors",
        )
        print(f"{name}: {trained.log.parameters} parameters, {trained.log.seconds:.0f} s")
        return twin

    def rows(self, subjects: dict[str, Family], *, trials: bool = True, seed: int = 0) -> Rows:
        """All rows of the subjects."""
        judges = {name: judge_of(self.model, self.model / name, self.base) for name in JUDGES}
        evaluation = PromptEvaluation(
            base=self.base,
            prompts=self.prompts,
            judges=judges,
            settings=EditSettings(num_inference_steps=8, guidance=3.0),
            seed=seed,
            path=self.out / "rows.jsonl",
        )
        return evaluation.run(subjects, [*self.trials().values()] if trials else [])


def _trial(attack: PromptAttack, edits: int, *, draws: bool = False) -> PromptTrial:
    return PromptTrial(attack=attack, budget=CharBudget(edits=edits), draws=draws)


def _report(name: str):  # type: ignore[no-untyped-def]
    def report(phase, step, total, row):  # type: ignore[no-untyped-def]
        if step % 50 == 0 or step == total:
            print(name, step, total, {k: round(v, 3) for k, v in row.items()}, flush=True)

    return report


def of(rows: Rows, subject: str, trial: PromptTrial | None) -> Rows:
    """Rows of a subject under a trial, by prompt."""
    words = to_toml(trial) if trial else ""
    found = [row for row in rows if (row.subject, row.trial) == (subject, words)]
    return sorted(found, key=lambda row: row.sample)


def strongest(rows: Rows, subject: str, trials: dict[str, PromptTrial], edits: int) -> Rows:
    """The row of each prompt that moved farthest among the trials of a budget."""
    own = [of(rows, subject, trial) for trial in trials.values() if trial.budget.limit == edits]
    return [max(each, key=lambda row: row.shift) for each in zip(*own, strict=True)]


def text(interval: Interval, digits: int = 3) -> str:
    """An interval for a table."""
    low, value, high = (f"{x:.{digits}f}" for x in (interval.low, interval.value, interval.high))
    return f"{value} [{low}, {high}]"


def shifts(rows: Rows, trials: dict[str, PromptTrial], subjects: Sequence[str]) -> list[dict]:
    """How far attacked prompts move, and by what factor less than at the base."""
    settings = {name: {s: of(rows, s, trial) for s in subjects} for name, trial in trials.items()}
    for k in sorted({trial.budget.limit for trial in trials.values()}):
        settings[f"strongest, k = {k}"] = {s: strongest(rows, s, trials, k) for s in subjects}
    table = []
    for name, by_subject in settings.items():
        base = [row.shift for row in by_subject[BASE]]
        for subject, own in by_subject.items():
            column = [row.shift for row in own]
            table.append(
                {
                    "attack": name,
                    "subject": subject,
                    "n": len(own),
                    "shift": asdict(bootstrap_mean(column, seed=0)),
                    "factor": asdict(bootstrap_ratio(base, column, seed=0)),
                    "own_shift": float(np.mean([row.own_shift for row in own])),
                    "queries": float(np.mean([row.queries for row in own])),
                }
            )
    return table


def costs(rows: Rows, subjects: Sequence[str]) -> list[dict]:
    """What the adapters change where nothing attacks."""
    table = []
    for subject in subjects:
        own = of(rows, subject, None)
        cosines = [row.clean_cosine for row in own]
        table.append(
            {
                "subject": subject,
                "clean_cosine": asdict(bootstrap_mean(cosines, seed=0)),
                "least_cosine": min(cosines),
                "clean_shift": float(np.mean([row.clean_shift for row in own])),
            }
        )
    return table


def alignments(
    rows: Rows, other: Rows, trials: dict[str, PromptTrial], subjects: Sequence[str]
) -> list[dict]:
    """How well pictures drawn from attacked prompts fit the clean ones."""
    drawn = {"no attack": None} | {name: trial for name, trial in trials.items() if trial.draws}
    table = []
    for judge in JUDGES:
        clean, again = (
            np.array([row.alignment[judge] for row in of(each, BASE, None)])
            for each in (rows, other)
        )
        margin = float(np.quantile(clean - again, NATURAL))
        for name, trial in drawn.items():
            columns = {
                s: np.array([row.alignment[judge] for row in of(rows, s, trial)]) for s in subjects
            }
            broken = {s: clean - column > margin for s, column in columns.items()}
            for subject, column in columns.items():
                gain = bootstrap_difference(column, columns[BASE], seed=0)
                rate = wilson(int(broken[subject].sum()), len(column))
                table.append(
                    {
                        "judge": judge,
                        "attack": name,
                        "subject": subject,
                        "alignment": asdict(bootstrap_mean(column, seed=0)),
                        "gain": asdict(gain),
                        "broken": asdict(rate),
                        "p": mcnemar_exact(broken[BASE], broken[subject]),
                    }
                )
    return table


def show(result: dict) -> None:
    """The tables, as Markdown."""
    print("\n| attack | subject | shift | base over it | own shift | queries |\n|" + "---|" * 6)
    for row in result["shifts"]:
        shift, factor = Interval(**row["shift"]), Interval(**row["factor"])
        numbers = f"{text(shift)} | {text(factor, 2)} | {row['own_shift']:.3f}"
        print(f"| {row['attack']} | {row['subject']} | {numbers} | {row['queries']:.0f} |")
    print("\n| subject | clean cosine | least | clean shift |\n|" + "---|" * 4)
    for row in result["costs"]:
        cosine = text(Interval(**row["clean_cosine"]), 4)
        least, shift = row["least_cosine"], row["clean_shift"]
        print(f"| {row['subject']} | {cosine} | {least:.4f} | {shift:.3f} |")
    print(
        "\n| judge | attack | subject | alignment | gain over base | broken | p |\n|" + "---|" * 7
    )
    for row in result["alignments"]:
        words = (text(Interval(**row[key])) for key in ("alignment", "gain", "broken"))
        head = f"{row['judge']} | {row['attack']} | {row['subject']}"
        print(f"| {head} | {' | '.join(words)} | {row['p']:.3g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/prompts"))
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--max-drift", type=float, default=0.14)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--rank-budget", type=float, default=0.35)
    parser.add_argument("--inner", type=int, default=2, help="samples of the attack inside")
    parser.add_argument("--places", type=int, default=1)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--attacks", nargs="+", metavar="NAME", help="only these rows of the table")
    parser.add_argument("--without-control", action="store_true")
    flags = vars(parser.parse_args())
    is_controlled = not flags.pop("without_control")
    run = Run(n_prompts=flags.pop("prompts"), **flags)
    start = time.monotonic()
    families = {
        BASE: run.base,
        LEAF: run.trained(LEAF, CharSearch(n_samples=run.inner)),
    }
    if is_controlled:
        families[CONTROL] = run.trained(CONTROL, RandomCharacters())
    rows = run.rows(families)
    other = run.rows({BASE: run.base}, trials=False, seed=1)
    trials, subjects = run.trials(), [*families]
    result = {
        "flags": {key: str(value) for key, value in flags.items()} | {"prompts": len(run.prompts)},
        "seconds": round(time.monotonic() - start),
        "shifts": shifts(rows, trials, subjects),
        "costs": costs(rows, subjects),
        "alignments": alignments(rows, other, trials, subjects),
    }
    show(result)
    run.out.mkdir(parents=True, exist_ok=True)
    (run.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
