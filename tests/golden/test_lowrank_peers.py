"""Ranks and sums against PEFT itself."""

import numpy as np
import pytest
import torch
from peft.tuners.lora.conversion import _find_cutoff_index

from loricate.lowrank.rules import EnergyRank, parse


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
