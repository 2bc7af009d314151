"""Families of modules, and what is unusual among numbers."""

import numpy as np
import pytest

from loricate.adapters.adapter import Target
from loricate.integrity._statistics import families_of, robust_z


def blocks(module, n, component="unet"):
    return [Target(component, f"down_blocks.{i}.{module}") for i in range(n)]


def test_names_alike_but_for_numbers_are_a_family():
    keys, values = blocks("attn2.to_k", 4), blocks("attn2.to_v", 4)
    families, lone = families_of([*keys, *values], 4)
    assert families == {"unet attn2.to_k": [0, 1, 2, 3], "unet attn2.to_v": [4, 5, 6, 7]}
    assert lone == ()


def test_small_families_join_their_kind_and_the_rest_is_alone():
    targets = [
        *blocks("attn2.to_k", 4),
        *blocks("attn2.to_v", 2),
        *blocks("attn2.to_q", 2),
        *blocks("attn2.to_q", 3, "prior"),
    ]
    families, lone = families_of(targets, 4)
    assert families == {"unet attn2.to_k": [0, 1, 2, 3], "unet cross-attention": [4, 5, 6, 7]}
    assert lone == tuple(targets[8:])


def test_robust_z_is_the_distance_of_normal_numbers(rng):
    values = 5.0 + 3.0 * rng.standard_normal(20_001)
    z = robust_z(values, 1e-9)
    assert np.std(z) == pytest.approx(1.0, rel=0.03)
    # Which a few outliers do not change.
    values[:100] = 1e6
    assert np.median(np.abs(robust_z(values, 1e-9)[100:])) == pytest.approx(0.6745, rel=0.05)


def test_equal_numbers_have_an_assumed_spread():
    np.testing.assert_allclose(robust_z(np.array([1.0, 1.0, 1.0, 2.0]), 0.5), [0, 0, 0, 2])
    assert robust_z(np.empty(0), 0.5).shape == (0,)
