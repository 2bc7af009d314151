"""Defenses by attacks: which aggregates stand where, and what is called best."""

import pytest

from loricate.records.names import Metrics, budget_text
from loricate.report.matrix import matrices, unreliable
from loricate.testing.records import made_up_record


def record_of(*rates, epsilon=8 / 255):
    """A record with (subject, attack, value, low, high) as edit attack success."""
    record = made_up_record()
    [template, *_] = [a for a in record.aggregates if a.metric == Metrics.ATTACK_SUCCESS]
    found = [
        template.model_copy(
            update={"subject": subject, "attack": attack, "epsilon": epsilon}
            | {"value": value, "low": low, "high": high}
        )
        for subject, attack, value, low, high in rates
    ]
    clean = [a for a in record.aggregates if a.attack == "none"]
    return record.model_copy(update={"aggregates": (*found, *clean)})


PAIR = (("base", "pgd", 0.8, 0.7, 0.9), ("hardened", "pgd", 0.3, 0.2, 0.4))
WORST = (("base", "strongest", 0.9, 0.8, 1.0), ("hardened", "strongest", 0.4, 0.3, 0.5))


def test_attacks_stand_in_rows_with_the_worst_case_on_top() -> None:
    [matrix] = matrices(record_of(*PAIR, *WORST))
    assert matrix.subjects == ("base", "hardened")
    assert [row.label.partition(",")[0] for row in matrix.rows] == ["strongest", "pgd"]
    assert matrix.rows[1].cells["base"].value == 0.8


def test_clean_costs_stand_below() -> None:
    [matrix] = matrices(record_of(*PAIR, *WORST))
    assert [row.label for row in matrix.clean] == [
        "clean: Reconstruction PSNR",
        "clean: Latent drift",
        "clean: Prompt alignment",
    ]


def test_single_trainings_stand_in_no_column_and_spoil_their_defense() -> None:
    record = record_of(*PAIR, *WORST, ("hardened@0", "pgd", 0.1, 0.0, 0.2))
    failed = record.checks[0].model_copy(update={"level": "error", "subject": "hardened@0"})
    [matrix] = matrices(record)
    assert matrix.subjects == ("base", "hardened")
    spoiled = unreliable(record.model_copy(update={"checks": (failed,)}))
    assert spoiled == {"hardened@0", "hardened"}


def test_the_best_are_all_that_cannot_be_told_from_the_lowest() -> None:
    third = ("control_plain", "pgd", 0.35, 0.25, 0.45)
    [matrix] = matrices(record_of(*PAIR, third, *WORST))
    assert matrix.rows[1].best == {"hardened", "control_plain"}
    assert matrix.rows[0].best == {"hardened"}


def test_nobody_is_best_where_nobody_differs() -> None:
    same = [(subject, "pgd", 0.5, 0.1, 0.9) for subject in ("base", "hardened")]
    [matrix] = matrices(record_of(*same, *WORST))
    assert matrix.rows[1].best == frozenset()


def test_other_radii_than_that_of_the_verdict_are_left_out() -> None:
    assert matrices(record_of(*PAIR, *WORST, epsilon=2 / 255)) == ()


@pytest.mark.parametrize("rates", [PAIR, [each for each in (*PAIR, *WORST) if each[0] == "base"]])
def test_one_attack_or_one_model_makes_no_table(rates) -> None:
    assert matrices(record_of(*rates)) == ()


@pytest.mark.parametrize(
    ("size", "norm", "text"),
    [(16 / 255, "linf", "16/255 linf"), (0.5, "l2", "0.5 l2"), (2.0, "characters", "2 characters")],
)
def test_budgets_are_written_in_their_units(size, norm, text) -> None:
    assert budget_text(size, norm) == text
