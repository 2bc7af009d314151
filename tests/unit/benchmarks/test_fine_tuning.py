import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from fine_tuning import UNDER_LORD, compared, strongest
from poisoning.plan import AIMS, Plan

from loricate.evaluation.fine_tuning import METRICS


def row(loss: float) -> dict[str, float]:
    return dict.fromkeys(METRICS, 0.5) | {"loss": loss}


def test_the_strongest_attack_is_that_of_the_highest_loss_cell_by_cell():
    losses = {("a", 0): (1.0, 3.0, 2.0), ("b", 0): (6.0, 5.0, 4.0)}
    found = {
        key: {cell: row(each[at]) for cell, each in losses.items()}
        for at, key in enumerate(UNDER_LORD)
    }
    assert {cell: each["loss"] for cell, each in strongest(found).items()} == {
        ("a", 0): 3.0,
        ("b", 0): 6.0,
    }


def test_cells_that_one_attack_has_not_met_have_no_strongest():
    found = {UNDER_LORD[0]: {("a", 0): row(1.0)}, UNDER_LORD[1]: {("a", 0): row(2.0)}}
    assert strongest(found) == {}


def test_harm_is_what_the_second_loses_beyond_the_first():
    cells = [(concept, seed) for concept in "ab" for seed in range(2)]
    found = {
        "base/clean": {cell: row(1.0) for cell in cells},
        "base/ace": {cell: row(1.25) for cell in cells},
    }
    harm = compared(found)["ACE"]
    assert harm["loss"].value == 0.25
    assert harm["identity"].value == 0.0


def test_only_what_decides_a_fine_tune_names_its_cache():
    plan = Plan()
    assert replace(plan, concepts=("crown",), seeds=(7,)).key == plan.key
    assert replace(plan, epsilon=8).key != plan.key
    assert replace(plan, trial=replace(plan.trial, n_draws=4)).key != plan.key


def test_only_attacks_that_look_through_the_gate_read_it():
    assert {name for name, aim in AIMS.items() if aim.is_adaptive} == {"reoptimized", "adaptive"}
    assert all((aim.readout == "gated") == aim.is_adaptive for aim in AIMS.values())
