"""Updates out of proportion to their weights and to each other."""

from dataclasses import replace

import numpy as np
import pytest

from loricate import models
from loricate.adapters.files import save_adapter
from loricate.integrity._base_model import Base
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rules.norm_outlier import NormOutlier
from loricate.integrity.subject import Subject
from loricate.testing.corpora._adapters import Plan, adapter_for
from loricate.testing.corpora._layers import ATTENTION, embedded


@pytest.fixture(scope="module")
def base():
    return Base(models.path("emoji-sd"))


@pytest.fixture
def said(tmp_path):
    def say(adapter, base=None):
        path = tmp_path / "a.safetensors"
        save_adapter(adapter, path, form="diffusers")
        results = list(NormOutlier().check(Subject(path, base=base)))
        return (
            [each for each in results if isinstance(each, Finding)],
            [each for each in results if isinstance(each, NotVerified)],
        )

    return say


def test_a_uniform_thousand_needs_the_base(said, base):
    adapter = adapter_for(embedded("unet", ATTENTION))
    (found,), _ = said(adapter.scaled(1000.0), base)
    assert found.severity is Severity.HIGH
    assert found.evidence["relative_frobenius"] > 10
    assert found.evidence["n_modules"] == len(adapter)
    findings, unknown = said(adapter.scaled(1000.0))
    assert not findings
    assert any("--base" in each.why for each in unknown)


@pytest.mark.parametrize("with_base", [True, False])
def test_a_single_thousand_is_seen_either_way(said, base, with_base):
    adapter = adapter_for(embedded("unet", ATTENTION))
    target = sorted(adapter)[3]
    update = replace(adapter[target], factors=adapter[target].factors.scaled(1000.0))
    findings, _ = said(
        replace(adapter, updates={**adapter, target: update}), base if with_base else None
    )
    assert {each.severity for each in findings} == {Severity.HIGH}
    assert {each.where for each in findings} == {str(target)}


def test_a_spike_is_long_without_being_large(said, base):
    layers = embedded("text_encoder", r"layers\.0\.mlp\.fc1$")
    ((target, update),) = adapter_for(layers, Plan(size=0.01)).items()
    weight = np.asarray(base.weight(*target), np.float64)
    u, s, vh = np.linalg.svd(weight)
    factors = replace(update.factors, A=vh[:1], B=6.0 * s[0] * u[:, :1])
    adapter = replace(adapter_for(layers), updates={target: replace(update, factors=factors)})
    relative = 6.0 * s[0] / np.linalg.norm(weight)
    assert relative < 4.0
    (found,), _ = said(adapter, base)
    assert found.severity is Severity.MEDIUM
    assert found.evidence["relative_spectral"] == pytest.approx(6.0, rel=1e-2)


@pytest.mark.parametrize("size", [1e-4, 0.03, 0.4])
def test_plausible_adapters_are_clean(said, base, size):
    findings, unknown = said(adapter_for(embedded("unet", ATTENTION), Plan(size=size)), base)
    assert not findings
    assert not unknown
