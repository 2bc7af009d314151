"""A text encoder hardened against typos, beside its control, on the embedded model.

Three encoders: the base, a LEAF adapter, and a control of at least its compute that sees random
typos instead of an attack. They are attacked through characters, free words, free vectors and the
denoiser's own loss, each search beside chance with its passes or more.
Prompts are held out, attacks are adaptive, and shifts are distances from what the denoiser was
trained on, in units of how far prompts spread. Killed, it continues.

    OMP_NUM_THREADS=1 python benchmarks/prompts.py --json docs/results/prompts.json
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from prompt_defense.pictures import N_PROMPTS, pulls
from prompt_defense.subjects import Subjects
from prompt_defense.texts import Texts
from prompt_defense.vectors import shifts as vector_shifts


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        key: Where rows keep it.
        title: Its head.
        form: How it is written.
    """

    key: str
    title: str
    form: str = "{:.3f}"

    def text(self, row: dict) -> str:
        """A cell: a number, one with its interval, or words."""
        match row[self.key]:
            case [value, low, high]:
                value, low, high = (self.form.format(each) for each in (value, low, high))
                return f"{value} ({low} to {high})"
            case [mean, most]:
                return f"{mean:.0f}, at most {most:.0f}"
            case float(number):
                return self.form.format(number)
            case other:
                return str(other)


ATTACK, SUBJECT = Column("attack", "attack"), Column("subject", "encoder")
SHIFT, FACTOR = Column("shift", "shift"), Column("factor", "base over it", "{:.2f}")

TABLES: dict[str, tuple[Column, ...]] = {
    "shifts": (ATTACK, SUBJECT, SHIFT, FACTOR, Column("queries", "queries")),
    "searches": (
        ATTACK,
        SUBJECT,
        Column("beyond_chance", "shift beyond chance, paired"),
        Column("at_least", "prompts at least equal", "{:.0%}"),
    ),
    "inside": (ATTACK, Column("below_control", "shift with LEAF below control, paired")),
    "vectors": (ATTACK, SUBJECT, SHIFT, FACTOR),
    "pulls": (
        ATTACK,
        SUBJECT,
        Column("own_gain", "error lowered, its noise", "{:.4f}"),
        Column("beyond_chance", "search beyond it", "{:.4f}"),
        Column("gain", "unseen noise", "{:.4f}"),
        Column("way", "by the true caption", "{:.4f}"),
        Column("fit", "fit of pictures"),
        Column("fit_gained", "gained"),
    ),
    "costs": (
        SUBJECT,
        Column("clean_cosine", "clean cosine"),
        Column("clean_shift", "clean shift"),
    ),
    "alignments": (
        Column("judge", "judge"),
        ATTACK,
        SUBJECT,
        Column("alignment", "agreement"),
        Column("gain", "gain over base"),
        Column("over_control", "over control"),
        Column("broken", "broken"),
        Column("p", "p", "{:.3g}"),
    ),
}


def show(result: dict) -> None:
    """The tables, as Markdown."""
    for name, columns in TABLES.items():
        print(f"\n{name}, n = {result['n'][name]}\n")
        print(f"| {' | '.join(c.title for c in columns)} |\n|" + "---|" * len(columns))
        for row in result[name]:
            print(f"| {' | '.join(c.text(row) for c in columns)} |")


def kept(path: Path, make: Callable[[], list[dict]]) -> list[dict]:
    """A table, made unless its file is there."""
    if not path.exists():
        path.write_text(json.dumps(make()))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/prompts"))
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0, help="of the trainings")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where figures go")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    flags.out.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    subjects = Subjects(flags.out, flags.prompts, flags.steps, flags.seed)
    words = f"{flags.prompts}-{flags.steps}-{flags.seed}.json"
    vectors = kept(flags.out / f"vectors-{words}", lambda: vector_shifts(subjects))
    pulled = kept(flags.out / f"pulls-{words}", lambda: pulls(subjects))
    texts = Texts.of(subjects)
    result = {
        "shifts": texts.shifts(),
        "searches": texts.searches(),
        "inside": texts.inside(),
        "vectors": vectors,
        "pulls": pulled,
        "costs": texts.costs(),
        "alignments": texts.alignments(),
    }
    result["n"] = dict.fromkeys(result, len(subjects.prompts)) | {"pulls": N_PROMPTS}
    show(result)
    print(f"\n{time.process_time() - start:.0f} s of processor")
    if flags.json:
        flags.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
