"""Draws belong to addresses."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from loricate.core.generators import generators, sample_seeds

_roots = st.integers(0, 2**63 - 1)
_samples = st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True)


@given(_roots, _samples)
def test_a_sample_has_its_seed_in_any_batch(root, samples) -> None:
    together = sample_seeds(root, samples, "attack")
    assert together == [sample_seeds(root, [each], "attack")[0] for each in samples]
    assert len(set(together)) == len(samples)


@given(_roots, _samples)
def test_addresses_and_roots_tell_draws_apart(root, samples) -> None:
    seeds = sample_seeds(root, samples)
    others = sample_seeds(root + 1, samples), sample_seeds(root, samples, "x")
    assert not set(seeds) & (set(others[0]) | set(others[1]))
    first, again, other = (
        torch.stack([torch.rand(4, generator=g) for g in generators(seeds, address)])
        for address in ("a", "a", "b")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
