"""Ranks, sums and intruders against PEFT itself."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.conversion import _find_cutoff_index
from peft.tuners.lora.intruders import reduce_intruder_dimension

from loricate.lowrank.factors import LowRank
from loricate.lowrank.merge import concat, merge
from loricate.lowrank.rules import EnergyRank, FixedRank, parse
from loricate.lowrank.spectrum import intruder_dimensions
from loricate.lowrank.svd import recompress


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("n_values", [1, 2, 7, 64])
def test_energy_is_what_peft_computes(rng, share, n_values):
    s = np.sort(rng.exponential(size=n_values).astype(np.float32))[::-1].copy()
    expected = _find_cutoff_index(torch.asarray(s), share)
    shape = (n_values, n_values + 3)
    assert parse(f"peft:energy:{share}").rank(s, shape) == expected
    assert EnergyRank(share).rank(s, shape) == expected


def test_a_share_met_exactly_is_met_in_peft_too():
    s = np.ones(4, np.float32)
    assert _find_cutoff_index(torch.asarray(s), 0.5) == 2
    assert parse("peft:energy:0.5").rank(s, (4, 4)) == 2


@pytest.fixture(autouse=True)
def _peft_draws_first_values_of_its_own():
    with torch.random.fork_rng(devices=[]):
        yield


def random_update(rng, shape, rank):
    b, a = (rng.standard_normal((n, rank)).astype(np.float32) for n in shape)
    return LowRank(torch.asarray(a.T.copy()), torch.asarray(b))


def with_adapters(weight, updates):
    """A PEFT model of one Linear layer, with an adapter for each update."""
    layer = torch.nn.Linear(*weight.shape[::-1], bias=False)
    config = LoraConfig(
        r=updates["first"].rank, lora_alpha=updates["first"].rank, target_modules=["layer"]
    )
    model = get_peft_model(torch.nn.Sequential(OrderedDict(layer=layer)), config, "first")
    lora = model.base_model.model.layer
    with torch.no_grad():
        lora.base_layer.weight.copy_(weight)
        for name, update in updates.items():
            if name != "first":
                model.add_adapter(name, config)
            lora.lora_A[name].weight.copy_(update.A)
            lora.lora_B[name].weight.copy_(update.B)
    return model, lora


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_a_combination_is_what_peft_computes(rng, shape):
    updates = {name: random_update(rng, shape, 4) for name in ("first", "second")}
    model, lora = with_adapters(torch.zeros(shape), updates)
    model.add_weighted_adapter(
        ["first", "second"], [1.0, 0.5], "sum", combination_type="svd", svd_rank=5
    )
    ours = recompress(concat(list(updates.values()), [1.0, 0.5]), FixedRank(5)).dense()
    theirs = lora.get_delta_weight("sum").detach()
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize("strength", [0.0, 0.05, 0.3, 1.0])
def test_intruders_are_counted_as_peft_counts_them(rng, strength):
    weight = torch.asarray(rng.standard_normal((24, 32)).astype(np.float32))
    update = random_update(rng, (24, 32), 3).scaled(strength).baked()
    model, _ = with_adapters(weight, {"first": update})
    lines = []
    reduce_intruder_dimension(
        model, "first", "reduced", top_k=6, threshold_epsilon=0.6, logging_sink=lines.append
    )
    _, _, stated = lines[0].partition("Intruders: ")
    expected = int(stated) if stated else 0
    assert intruder_dimensions(weight, merge(weight, update), k=6) == expected
    assert (expected > 0) == (strength > 0.2)
