"""Spectra unlike those of their family."""

from dataclasses import replace

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter
from loricate.adapters.files import save_adapter
from loricate.integrity.finding import Finding, Severity
from loricate.integrity.rules.spectrum_outlier import SpectrumOutlier
from loricate.integrity.subject import Subject
from loricate.lowrank.factors import LowRank
from loricate.testing.corpora._adapters import Plan, adapter_for
from loricate.testing.corpora._layers import embedded


@pytest.fixture
def said(tmp_path):
    def say(updates):
        path = tmp_path / "a.safetensors"
        save_adapter(Adapter(updates), path, form="diffusers")
        return list(SpectrumOutlier().check(Subject(path)))

    return say


@pytest.mark.parametrize("pattern", [r"attn2\.to_[qkv]$", r"resnets.*conv[12]$"])
def test_one_peaked_module_of_a_flat_family_fires(said, pattern):
    plain = adapter_for(embedded("unet", pattern), Plan(rank=8, decay=0.95))
    assert not [each for each in said(plain) if isinstance(each, Finding)]
    target = sorted(plain)[1]
    b = np.array(plain[target].factors.B)
    b[:, 0] *= 20.0
    peaked = replace(plain[target], factors=LowRank(plain[target].factors.A, b))
    (found,) = (each for each in said({**plain, target: peaked}) if isinstance(each, Finding))
    assert (found.severity, found.where) == (Severity.MEDIUM, str(target))
    assert found.evidence["z_peakedness"] > 8
    assert found.evidence["energy_share"] > 0.9


@pytest.mark.parametrize("decay", [0.3, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("rank", [4, 16])
def test_random_decays_are_clean(said, decay, rank):
    adapter = adapter_for(embedded("unet", r"attn[12]\."), Plan(rank=rank, decay=decay))
    assert not said(adapter)


def test_few_modules_and_low_ranks_are_not_judged(said):
    (unknown,) = said(adapter_for(embedded("unet", r"^mid_block.*attn2\.")))
    assert "4 updates" in unknown.why
    (unknown,) = said(adapter_for(embedded("unet", r"attn2\."), Plan(rank=2)))
    assert "16 updates" in unknown.why
