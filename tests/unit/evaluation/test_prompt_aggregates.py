"""Rows of attacked prompts as aggregates: worst cases, budgets and what counts as broken."""

import pytest

pytest.importorskip("torch")

from loricate.attacks.char_search import CharSearch
from loricate.attacks.random_characters import RandomCharacters
from loricate.basics.spec import to_toml
from loricate.core.text_budgets import CharBudget
from loricate.evaluation.prompt_aggregates import aggregate_prompts
from loricate.evaluation.prompts import PromptRow, PromptTrial
from loricate.records.names import Metrics

SEARCH = PromptTrial(attack=CharSearch(), budget=CharBudget(edits=2), draws=True)
RANDOM = PromptTrial(attack=RandomCharacters(), budget=CharBudget(edits=2), draws=True)


def row(sample, *, subject="base", trial=None, shift=0.0, alignment=0.8):
    return PromptRow(
        subject=subject,
        trial=to_toml(trial) if trial else "",
        sample=sample,
        prompt="a cat",
        found="a cst",
        shift=shift,
        own_shift=shift,
        clean_shift=0.0,
        clean_cosine=1.0,
        queries=3,
        alignment={"judge": alignment},
    )


def found(rows):
    aggregates = aggregate_prompts(rows, judge="judge", margin=0.1, seed=0)
    return {(a.subject, a.attack, a.metric): a for a in aggregates}


def test_the_worst_trial_of_each_prompt_is_taken_not_the_worst_trial() -> None:
    rows = [row(i, trial=SEARCH, shift=s) for i, s in enumerate((1.0, 5.0))]
    rows += [row(i, trial=RANDOM, shift=s) for i, s in enumerate((4.0, 2.0))]
    table = found([*rows, row(0), row(1)])
    assert table["base", "strongest", Metrics.EMBEDDING_SHIFT].value == pytest.approx(4.5)
    assert table["base", "char_search", Metrics.EMBEDDING_SHIFT].value == pytest.approx(3.0)


def test_the_worst_of_each_metric_is_taken_by_itself() -> None:
    # The trial that moves the states farthest need not be the one that breaks the picture.
    rows = [row(i, trial=SEARCH, shift=5.0, alignment=0.8) for i in range(2)]
    rows += [row(i, trial=RANDOM, shift=1.0, alignment=0.1) for i in range(2)]
    table = found([*rows, row(0), row(1)])
    assert table["base", "strongest", Metrics.EMBEDDING_SHIFT].value == pytest.approx(5.0)
    assert table["base", "strongest", Metrics.PROMPT_SUCCESS].value == 1.0


def test_a_trial_without_pictures_does_not_hide_those_of_others() -> None:
    blind = [vars(row(i, trial=RANDOM, shift=9.0)) | {"alignment": {}} for i in range(2)]
    drawn = [row(i, trial=SEARCH, shift=1.0, alignment=0.1) for i in range(2)]
    table = found([row(0), row(1), *drawn, *(PromptRow(**each) for each in blind)])
    assert table["base", "strongest", Metrics.EMBEDDING_SHIFT].value == pytest.approx(9.0)
    assert table["base", "strongest", Metrics.PROMPT_SUCCESS].value == 1.0


def test_budgets_that_keep_words_are_others() -> None:
    kept = PromptTrial(attack=CharSearch(), budget=CharBudget(edits=2, keeps_words=True))
    rows = [row(i, trial=trial, shift=1.0) for i in range(2) for trial in (SEARCH, kept)]
    aggregates = aggregate_prompts([row(0), row(1), *rows], judge="judge", margin=0.1, seed=0)
    norms = [a.norm for a in aggregates if a.attack == "char_search" and a.n == 2]
    assert {*norms} == {"characters", "characters, words kept"}


def test_budgets_are_edits_and_clean_rows_have_none() -> None:
    table = found([row(0), row(1), *(row(i, trial=SEARCH, shift=1.0) for i in range(2))])
    attacked = table["base", "char_search", Metrics.EMBEDDING_SHIFT]
    assert (attacked.epsilon, attacked.norm, attacked.surface) == (
        2.0,
        "characters",
        "text_encoder",
    )
    assert table["base", "none", Metrics.EMBEDDING_SHIFT].epsilon == 0.0


def test_a_picture_is_broken_by_more_than_another_seed_would_cost_the_base() -> None:
    clean = [row(i, alignment=0.8) for i in range(4)]
    attacked = [
        row(i, subject="hardened", trial=SEARCH, alignment=a)
        for i, a in enumerate((0.75, 0.71, 0.69, 0.1))
    ]
    hardened = [row(i, subject="hardened", alignment=0.1) for i in range(4)]
    table = found([*clean, *hardened, *attacked])
    rate = table["hardened", "char_search", Metrics.PROMPT_SUCCESS]
    assert (rate.value, rate.n, rate.method) == (0.5, 4, "wilson")
    assert ("hardened", "none", Metrics.PROMPT_SUCCESS) not in table


def test_trials_without_pictures_have_shifts_alone() -> None:
    blind = [PromptRow(**{**vars(row(i, trial=SEARCH)), "alignment": {}}) for i in range(2)]
    metrics = {
        metric
        for subject, attack, metric in found([row(0), row(1), *blind])
        if attack == "char_search"
    }
    assert metrics == {Metrics.EMBEDDING_SHIFT}
