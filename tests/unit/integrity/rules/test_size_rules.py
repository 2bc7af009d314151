"""Updates that are large beside a layer at its start, take weights away, or cannot be judged."""

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.integrity.finding import Finding, NotVerified, Severity
from loricate.integrity.rules.absolute_norm import AbsoluteNorm
from loricate.integrity.rules.rank_collapse import RankCollapse
from loricate.integrity.rules.unjudged_updates import UnjudgedUpdates
from loricate.integrity.rules.weight_replaced import WeightReplaced
from loricate.integrity.scan import scan

BLOCK = "unet.mid_block.attentions.0.transformer_blocks.{}.attn1.to_q"
FIRST = (BLOCK.format(0),)
SIDE = 48


def file_of(change, rank=None, names=FIRST):
    """Tensors of a pair for each name, by the dense update."""
    tensors = {}
    for name in names:
        u, s, vh = np.linalg.svd(change)
        k = rank or len(s)
        tensors[f"{name}.lora_A.weight"] = vh[:k].astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = (u[:, :k] * s[:k]).astype(np.float32)
    return tensors


@pytest.fixture
def base(tmp_path, rng):
    """A model of one layer, and its weight."""
    weight = rng.standard_normal((SIDE, SIDE)).astype(np.float32) / 7
    name = f"{BLOCK.format(0).removeprefix('unet.')}.weight"
    save_tensors(tmp_path / "base" / "unet" / "model.safetensors", {name: weight})
    return tmp_path / "base", weight


def test_a_layer_at_its_start_is_the_yardstick(judged, rng):
    start = rng.uniform(-1, 1, (SIDE, SIDE)) / SIDE**0.5  # as torch draws it
    for gain, severity in ((4.0, None), (6.0, Severity.MEDIUM), (25.0, Severity.HIGH)):
        found = judged(AbsoluteNorm(), file_of(gain * start))
        assert [each.severity for each in found] == ([severity] if severity else [])
    assert found[0].evidence["frobenius"] == pytest.approx(25.0, rel=0.1)


def test_one_direction_may_be_too_strong_where_the_norm_is_not(judged):
    change = np.zeros((SIDE, SIDE))
    change[0, 0] = 18.0  # 4.5 and 15.6 times
    assert not judged(AbsoluteNorm(steep=16.0), file_of(change, 1))
    (found,) = judged(AbsoluteNorm(steep=15.0), file_of(change, 1))
    assert found.evidence["spectral"] == pytest.approx(15.6, rel=0.01)


def test_the_median_of_many_counts_as_well(judged, rng):
    start = rng.uniform(-1, 1, (SIDE, SIDE)) / SIDE**0.5
    names = [BLOCK.format(i) for i in range(8)]
    assert judged(AbsoluteNorm(), file_of(3.0 * start, names=names))
    assert not judged(AbsoluteNorm(), file_of(3.0 * start, names=names[:7]))
    assert not judged(AbsoluteNorm(), file_of(2.0 * start, names=names))


@pytest.mark.parametrize(
    ("gain", "taken"), [(-1.0, 1.0), (-0.5, 0.5), (-2.0, 2.0), (-0.2, None), (1.0, None)]
)
def test_what_an_update_takes_away_is_the_projection_on_the_weight(judged, base, gain, taken):
    folder, weight = base
    found = judged(WeightReplaced(large=9.0), file_of(gain * weight), base=folder)
    assert [each.evidence["taken"] for each in found] == pytest.approx([taken] if taken else [])


def test_another_weight_in_place_of_the_first_is_seen(judged, base, rng):
    folder, weight = base
    other = rng.standard_normal(weight.shape) / 7
    severities = {
        e.severity for e in judged(WeightReplaced(), file_of(other - weight), base=folder)
    }
    assert severities == {Severity.HIGH, Severity.MEDIUM}
    noise = judged(WeightReplaced(), file_of(1.2 * other), base=folder)
    assert [each.severity for each in noise] == [Severity.MEDIUM]
    assert not judged(WeightReplaced(), file_of(1.2 * other, 8), base=folder)
    assert not judged(WeightReplaced(), file_of(0.2 * other), base=folder)


def test_products_beyond_the_budget_are_not_verified(judged, base):
    folder, weight = base
    (found,) = judged(WeightReplaced(large=9.0, budget=100), file_of(-weight), base=folder)
    assert isinstance(found, NotVerified)


@pytest.mark.parametrize(("decay", "fires"), [(0.05, True), (0.1, True), (0.5, False)])
def test_a_rank_that_fades_at_once_is_a_mere_claim(judged, rng, decay, fires):
    q, _ = np.linalg.qr(rng.standard_normal((SIDE, SIDE)))
    change = q @ np.diag(decay ** np.arange(SIDE)) @ q.T
    names = [BLOCK.format(i) for i in range(10)]
    found = judged(RankCollapse(), file_of(change, 16, names))
    assert bool(found) is fires
    # One in ten that is sound does not hide the others; at a low rank it means nothing.
    sound = file_of(np.eye(SIDE), 16, names[:1])
    assert bool(judged(RankCollapse(), file_of(change, 16, names) | sound)) is fires
    assert not judged(RankCollapse(), file_of(change, 4, names))


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({}, "pass"),
        ({".oft_blocks": (2, 4, 4)}, "inconclusive"),
        ({".on_input": ()}, "inconclusive"),
    ],
)
def test_what_no_rule_can_judge_leaves_the_verdict_open(tmp_path, base, more, outcome):
    folder, weight = base
    tensors = file_of(0.01 * weight, 4)
    tensors |= {BLOCK.format(0) + end: np.ones(s, np.float32) for end, s in more.items()}
    save_tensors(tmp_path / "lora.safetensors", tensors)
    for model in (None, folder):
        report = scan([tmp_path / "lora.safetensors"], base=model)
        assert report.outcome() == outcome
        open_ones = {each.where for each in report.not_verified if each.rule == "unjudged_updates"}
        assert open_ones == ({BLOCK.format(0)} if more else set())


def test_an_adapter_of_which_nothing_can_be_read_is_open(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"lora_unet_x.oft_blocks": np.ones((2, 4, 4))})
    report = scan([tmp_path / "a.safetensors"])
    assert report.outcome() == "inconclusive"
    assert "norm_outlier" not in report.subjects[0].passed


def test_finite_factors_may_overflow_together(judged):
    name = BLOCK.format(0)
    tensors = {f"{name}.lora_A.weight": np.full((2, 4), 1e200)}
    tensors[f"{name}.lora_B.weight"] = np.full((4, 2), 1e200)
    (found,) = judged(UnjudgedUpdates(), tensors)
    assert isinstance(found, Finding)
    assert found.severity is Severity.HIGH
