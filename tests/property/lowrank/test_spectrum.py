"""Summaries of spectra against their definitions, and angles known by construction."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.arrays import to_numpy, tolerance
from loricate.lowrank.spectrum import (
    effective_rank,
    intruder_dimensions,
    principal_angles,
    singular_values,
    stable_rank,
)
from loricate.testing.strategies import matrix_cases, seeds

WIDE = ("float64", "float32")


@given(matrix_cases())
def test_singular_values_are_those_drawn(case):
    s = singular_values(case.matrix())
    atol = tolerance(case.values(), case.shape, dtype=case.matrix())
    np.testing.assert_allclose(to_numpy(s), case.values(), rtol=0, atol=atol)


@given(matrix_cases(dtypes=WIDE))
def test_ranks_of_a_spectrum_are_ordered(case):
    s = case.values()
    positive = int(np.sum(s > 0))
    if positive == 0:
        assert stable_rank(s) == effective_rank(s) == 0.0
        return
    nuclear_over_top = s.sum() / s[0]
    # Entropies: min-entropy <= Shannon <= log of the support.
    assert 1.0 <= stable_rank(s) <= nuclear_over_top * (1 + 1e-15)
    assert nuclear_over_top * (1 - 1e-12) <= effective_rank(s) <= positive * (1 + 1e-12)


@given(st.integers(1, 4), st.integers(1, 4), seeds)
def test_angles_known_by_construction_are_found(k, extra, seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(np.array([1e-9, 1e-4, 0.5, 1.5])[:k])
    frame = np.linalg.qr(rng.standard_normal((2 * k + extra, 2 * k)))[0]
    x = frame[:, :k] @ rng.standard_normal((k, k))
    y = frame[:, :k] * np.cos(angles) + frame[:, k:] * np.sin(angles)
    found = principal_angles(x, y)
    condition = np.linalg.cond(x)
    atol = tolerance(np.ones(1), y.shape) * condition
    np.testing.assert_allclose(found, angles, rtol=0, atol=atol)


@given(matrix_cases(spectra=("geometric",), dtypes=WIDE, sides=st.integers(6, 12)), seeds)
def test_intruders_are_the_planted_ones(case, seed):
    base = np.asarray(case.exact())
    assert intruder_dimensions(base, 1.7 * base) == 0
    # A direction outside the column space of the base, far above its spectrum, is an intruder
    # wherever every column of the base is at a large angle to it.
    rng = np.random.default_rng(seed)
    u = np.linalg.svd(base, full_matrices=True)[0]
    new = u @ np.ones(u.shape[0]) / np.sqrt(u.shape[0])
    planted = base + 50 * np.outer(new, rng.standard_normal(base.shape[1]))
    assert intruder_dimensions(base, planted, k=1) == 1
