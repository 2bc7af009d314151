"""Defenses by attacks on the embedded model: pictures, prompts and both together.

Every strategy is trained anew, the two that compete with three seeds, then attacked through
everything it deploys; ``hardened`` is their composition. Each metric is one table, with the clean
cost below. Killed, it continues.

    python benchmarks/surfaces.py                  # the default, an hour and more on two cores
    python benchmarks/surfaces.py --quick          # some minutes, to look at
"""

import argparse
import time
from pathlib import Path

from loricate.attacks.apgd import APGD
from loricate.attacks.char_search import CharSearch
from loricate.attacks.charmer import Charmer
from loricate.attacks.fgsm import FGSM
from loricate.attacks.homoglyph import Homoglyph
from loricate.attacks.pgd import PGD
from loricate.attacks.random_characters import RandomCharacters
from loricate.attacks.random_noise import RandomNoise
from loricate.attacks.square import Square
from loricate.core.attack import Attack
from loricate.core.defense import InputDefense
from loricate.core.objective import Objective
from loricate.core.prompt_attack import PromptAttack
from loricate.core.text_budgets import CharBudget
from loricate.defenses._adapter_defense import AdapterDefense
from loricate.defenses._training import Schedule
from loricate.defenses.adversarial_lora import AdversarialLora
from loricate.defenses.denoiser_lora import DenoiserLora
from loricate.defenses.jpeg import JPEG
from loricate.defenses.leaf_lora import LeafLora
from loricate.defenses.srl_vae import SrlVae
from loricate.evaluation.battery import battery_plan
from loricate.evaluation.plan import Plan, Trial
from loricate.evaluation.prompts import PromptTrial
from loricate.objectives.denoising_loss import DenoisingLoss
from loricate.objectives.edit_shift import EditShift
from loricate.objectives.latent_shift import LatentShift
from loricate.objectives.latent_target import LatentTarget
from loricate.objectives.mist import Mist
from loricate.objectives.score_distillation import ScoreDistillation
from loricate.recipes._defaults import EPSILON, LEARNING_RATE
from loricate.recipes._strategy import Strategy
from loricate.recipes.compare import compare
from loricate.recipes.report import report
from loricate.recipes.survey import PromptPlan, SurveySpec, survey
from loricate.records.names import HARDENED, budget_text
from loricate.report.matrix import Matrix, matrices, unreliable
from loricate.report.words import interval, number, plain

SEEDS = (0, 1, 2)


def strategies(*, quick: bool) -> dict[str, Strategy]:
    """The composition, its parts, and controls of equal compute."""
    steps = 20 if quick else 500
    encoder = AdversarialLora(
        inner=FGSM(),
        epsilon=EPSILON,
        max_drift=0.09,
        schedule=Schedule(steps=steps, learning_rate=LEARNING_RATE),
    )
    noise = AdversarialLora(
        inner=RandomNoise(), epsilon=EPSILON, max_drift=0.09, schedule=encoder.schedule
    )
    words = Schedule(steps=20 if quick else 400, batch_size=32, learning_rate=5e-3)
    text, typos = (
        LeafLora(
            inner=RandomCharacters(n_restarts=n), rank_budget=0.35, max_drift=0.13, schedule=words
        )
        for n in (4, 1)
    )
    short = Schedule(steps=20 if quick else 150, learning_rate=1e-3)
    denoiser = DenoiserLora(inner=FGSM(), epsilon=EPSILON, rank_budget=0.02, schedule=short)
    srl_vae = SrlVae(
        inner=FGSM(),
        epsilon=EPSILON,
        schedule=Schedule(steps=20 if quick else 250, learning_rate=LEARNING_RATE),
    )
    jpeg = JPEG(quality=75)
    defenses: dict[str, tuple[InputDefense | AdapterDefense | LeafLora, ...]] = {
        HARDENED: (jpeg, encoder, text, denoiser),
        "jpeg": (jpeg,),
        "encoder": (encoder,),
        "text": (text,),
        "denoiser": (denoiser,),
        "srl_vae": (srl_vae,),
        "control_noise": (noise, typos),
    }
    repeated = () if quick else (HARDENED, "encoder")
    return {
        name: Strategy(defense=parts, seeds=SEEDS if name in repeated else ())
        for name, parts in defenses.items()
    }


def image_plan(*, quick: bool, n_images: int) -> Plan:
    """Every kind of attack on pictures at the radius of the verdict, and a norm never trained."""
    share = 10 if quick else 1

    def trial(attack: Attack, objective: Objective, draws: int = 1, variant: str = "") -> Trial:
        return Trial(
            attack=attack,
            objective=objective,
            epsilons=(EPSILON,),
            eot_samples=draws,
            variant=variant,
        )

    return Plan(
        trials=(
            trial(RandomNoise(), LatentShift()),
            trial(PGD(steps=50 // share), LatentShift()),
            trial(APGD(steps=50 // share), LatentShift()),
            trial(Square(queries=500 // share), LatentShift()),
            trial(PGD(steps=50 // share), LatentTarget()),
            trial(PGD(steps=20 // share), DenoisingLoss(), 2),
            trial(PGD(steps=20 // share), ScoreDistillation(sign="+"), 2, "ascent"),
            trial(PGD(steps=20 // share), ScoreDistillation(sign="-"), 2, "descent"),
            trial(PGD(steps=20 // share), Mist(), 2),
            trial(PGD(steps=20 // share), EditShift(), 1 if quick else 2),
            Trial(
                attack=PGD(steps=50 // share), objective=LatentShift(), epsilons=(5.0,), norm="l2"
            ),
        ),
        epsilon=EPSILON,
        n_images=n_images,
        batch_size=min(50, n_images),
        battery=battery_plan(EPSILON, "quick" if quick else "standard"),
    )


def prompt_plan(*, quick: bool) -> PromptPlan:
    """Random typos, and three searches at growing budgets."""

    def trial(attack: PromptAttack, edits: int, *, draws: bool = False) -> PromptTrial:
        return PromptTrial(attack=attack, budget=CharBudget(edits=edits), draws=draws)

    search, charmer = CharSearch(n_samples=12), Charmer(n_places=3)
    trials = (
        trial(RandomCharacters(), 1),
        trial(Homoglyph(), 1),
        trial(charmer, 1, draws=True),
        trial(search, 2, draws=True),
        trial(search, 4, draws=True),
    )
    return PromptPlan(trials=trials[:2] if quick else trials, n_prompts=8 if quick else 50)


def spec(*, quick: bool, n_images: int) -> SurveySpec:
    """The survey that the flags ask for."""
    return SurveySpec(
        plan=image_plan(quick=quick, n_images=n_images),
        strategies=strategies(quick=quick),
        prompts=prompt_plan(quick=quick),
        quick=quick,
    )


def table(matrix: Matrix, failed: set[str]) -> str:
    """A matrix as Markdown."""
    names = [s + (" (unreliable)" if s in failed else "") for s in matrix.subjects]
    lines = [f"| {matrix.title} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for row in matrix.rows + matrix.clean:
        cells = [interval(row.cells[s]) if s in row.cells else "" for s in matrix.subjects]
        lines.append(f"| {row.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def composition(out: Path) -> str:
    """Whether the composition beats each of its parts on the worst case over image attacks."""
    lines = []
    for t in compare([out]).paired:
        more = f"{number(t.difference)} [{number(t.low)}, {number(t.high)}]"
        told = "told apart" if t.p_value < 0.05 else "not told apart"
        lines.append(
            f"{plain(t.metric)}, {t.first.subject} less {t.second.subject}, "
            f"{budget_text(t.epsilon, t.norm)}: {more}, p = {t.p_value:.2g} after Holm: {told}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/surfaces"))
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--quick", action="store_true")
    flags = parser.parse_args()
    start, seen = time.monotonic(), dict[str, int]()

    def observe(phase: str, done: int, total: int, measured: object) -> None:
        if done * 10 // max(total, 1) != seen.get(phase):
            seen[phase] = done * 10 // max(total, 1)
            print(f"{time.monotonic() - start:7.0f} s  {phase} {done}/{total}", flush=True)

    asked = spec(quick=flags.quick, n_images=8 if flags.quick else flags.images)
    out = flags.out / "quick" if flags.quick else flags.out / "default"
    record = survey(asked, out, observe=observe, resume=out.exists())
    for matrix in matrices(record):
        print("\n" + table(matrix, unreliable(record)))
    print("\n" + composition(out))
    for check in record.checks:
        if check.level in ("warning", "error"):
            print(f"{check.level}: {check.name} ({check.subject}): {check.message}")
    print(f"\n{report(out)}; seconds: {record.environment.seconds}")


if __name__ == "__main__":
    main()
