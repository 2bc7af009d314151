"""Truncation is compared at the clean cost of the adapter, not at one of our choosing."""

import copy

import pytest

pytest.importorskip("torch")

import torch

from loricate.evaluation.subjects import Subject
from loricate.families.sd15 import SD15
from loricate.integrity.digest import digest
from loricate.recipes._matching import clean_drift, truncation_of_cost
from loricate.surfaces.attach import attach
from loricate.testing.pipelines import smooth_pictures


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(smooth_pictures(6, 32)).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def base() -> Subject:
    return Subject("base", SD15.tiny())


def _hardened(base: Subject, size: float) -> Subject:
    vae = copy.deepcopy(base.family.vae)
    attached = attach(vae, {"encoder.conv_in": 1}, seed=0)
    with torch.no_grad():
        attached.updates["encoder.conv_in"].b.fill_(size)
    return Subject("hardened", base.family.with_vae(vae))


@pytest.mark.parametrize(("size", "share"), [(0.05, 0.0), (0.3, 0.5)])
def test_the_truncated_encoder_costs_nearly_as_much_and_never_more(
    base, images, size, share
) -> None:
    hardened = _hardened(base, size)
    cost = clean_drift(hardened, base, images)
    before = digest(base.family.vae.state_dict())
    twin = Subject("twin", base.family.with_vae(truncation_of_cost(base, hardened, images)))
    # Dropping one of the few components of a tiny layer is a large step.
    assert share * cost < clean_drift(twin, base, images) <= cost
    assert digest(base.family.vae.state_dict()) == before


def test_no_cost_no_truncation(base, images) -> None:
    twin = truncation_of_cost(base, base, images)
    weights = zip(twin.parameters(), base.family.vae.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in weights)


def test_drift_of_the_base_from_itself_is_zero(base, images) -> None:
    assert clean_drift(base, base, images) == 0.0
