"""Directions in front of all that the base knows."""

from dataclasses import replace

import numpy as np
import pytest

from loricate import models
from loricate.adapters.adapter import Adapter, Update
from loricate.adapters.files import save_adapter
from loricate.integrity._base_model import Base
from loricate.integrity.finding import NotVerified, Severity
from loricate.integrity.rules.intruder_dimensions import IntruderDimensions
from loricate.integrity.subject import Subject
from loricate.lowrank.factors import LowRank
from loricate.testing.corpora._adapters import Plan, adapter_for
from loricate.testing.corpora._layers import embedded

ATTENTION = r"layers\.[01]\.self_attn\.(k|q|v|out)_proj$"


@pytest.fixture(scope="module")
def base():
    return Base(models.path("emoji-sd"))


@pytest.fixture
def said(tmp_path, base):
    def say(updates, rule=None):
        path = tmp_path / "a.safetensors"
        save_adapter(Adapter(updates), path, form="diffusers")
        return list((rule or IntruderDimensions()).check(Subject(path, base=base)))

    return say


def spikes(target, n, base):
    """Directions between all that the weight knows, each stronger than any of these."""
    u, s, vh = np.linalg.svd(np.asarray(base.weight(*target), np.float64))
    signs = np.linalg.qr(np.random.default_rng(n).standard_normal((len(s), n)))[0]
    return Update(LowRank((vh.T @ signs).T, 2.0 * s[0] * (u @ signs)))


@pytest.mark.parametrize(("n", "severity"), [(9, Severity.MEDIUM), (4, Severity.LOW), (1, None)])
def test_several_at_one_module(said, base, n, severity):
    plain = adapter_for(embedded("text_encoder", ATTENTION), Plan(size=0.01))
    target = sorted(plain)[0]
    found = said({**plain, target: spikes(target, n, base)})
    assert [each.severity for each in found] == ([severity] if severity else [])
    if found:
        assert found[0].where == str(target)
        assert found[0].evidence == {"n_intruders": n, "n_modules": 1}


def test_one_at_every_module_fires_as_well(said, base):
    layers = embedded("text_encoder", ATTENTION)
    (found,) = said({target: spikes(target, 1, base) for target in layers})
    assert found.severity is Severity.MEDIUM
    assert found.evidence == {"n_intruders": 1, "n_modules": len(layers)}


def test_stronger_known_directions_are_clean(said, base):
    updates = {}
    for target in embedded("text_encoder", ATTENTION):
        u, s, vh = np.linalg.svd(np.asarray(base.weight(*target), np.float64))
        updates[target] = Update(LowRank(vh[:4], u[:, :4] * s[0]))
    assert not said(updates)


def test_what_time_does_not_allow_is_not_verified(said, base):
    layers = embedded("text_encoder", ATTENTION)
    updates = {target: spikes(target, 1, base) for target in layers}
    results = said(updates, replace(IntruderDimensions(), budget=3 * 192 * 192, some=1))
    (unknown,) = (each for each in results if isinstance(each, NotVerified))
    assert f"{len(layers) - 3} more modules" in unknown.why
