"""Updates of a lower rank than they claim."""

from dataclasses import replace

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter
from loricate.adapters.files import save_adapter
from loricate.integrity.finding import Finding, Severity
from loricate.integrity.rules.rank_collapse import RankCollapse
from loricate.integrity.subject import Subject
from loricate.lowrank.factors import LowRank
from loricate.testing.corpora._adapters import Plan, adapter_for
from loricate.testing.corpora._layers import ATTENTION, embedded


@pytest.fixture
def plain():
    return adapter_for(embedded("unet", ATTENTION), Plan(rank=8))


@pytest.fixture
def said(tmp_path):
    def say(updates):
        path = tmp_path / "a.safetensors"
        save_adapter(Adapter(updates), path, form="diffusers")
        return [e for e in RankCollapse().check(Subject(path)) if isinstance(e, Finding)]

    return say


def changed(update, change):
    a, b = np.array(update.factors.A), np.array(update.factors.B)
    return replace(update, factors=LowRank(*change(a, b), update.factors.scale))


def test_doubled_rows_of_one_module_fire(said, plain):
    target = sorted(plain)[2]
    doubled = changed(plain[target], lambda a, b: (np.repeat(a[:2], 4, axis=0), b))
    (found,) = said({**plain, target: doubled})
    assert (found.severity, found.where) == (Severity.MEDIUM, str(target))
    numbers = dict(found.evidence)
    assert 1 <= numbers.pop("effective_rank") <= 2
    assert numbers == {"numerical_rank": 2.0, "rank": 8, "n_modules": 1}


def test_a_whole_adapter_of_one_direction_fires(said, plain):
    single = {
        t: changed(u, lambda a, b: (np.repeat(a[:1], 8, axis=0), b)) for t, u in plain.items()
    }
    found = said(single)
    assert {each.severity for each in found} == {Severity.MEDIUM}
    assert {each.evidence["numerical_rank"] for each in found} == {1.0}


def test_updates_of_zero_are_a_low_finding(said, plain):
    untrained = {t: changed(u, lambda a, b: (a, np.zeros_like(b))) for t, u in plain.items()}
    (found,) = said(untrained)
    assert found.severity is Severity.LOW
    assert found.evidence == {"n_modules": len(plain)}


def test_full_ranks_and_halved_ones_everywhere_are_clean(said, plain):
    assert not said(plain)
    assert not said(
        {t: changed(u, lambda a, b: (np.repeat(a[:4], 2, axis=0), b)) for t, u in plain.items()}
    )
