"""The core from Gram matrices: it is the SVD, and leaves alone what it would spoil."""

import numpy as np
import pytest

from loricate.lowrank._gram_core import gram_core
from loricate.lowrank.factors import LowRank
from loricate.lowrank.rules import FixedRank
from loricate.lowrank.svd import balanced, recompress

_RNG = np.random.default_rng(0)
_B = (_RNG.standard_normal((40, 6)) * 0.3 ** np.arange(6)).astype(np.float32)
_A = _RNG.standard_normal((6, 30)).astype(np.float32)
_GAUGE = np.float32([1e-12, 1e-6, 1.0, 1e3, 1e6, 1e12])
_SKEWED = np.eye(6, dtype=np.float32) + np.float32(0.3) * np.tri(6, dtype=np.float32)
_CASES = {
    "plain": LowRank(_A, _B),
    "scaled": LowRank(_A, _B, -0.25),
    "columns and rows of all sizes": LowRank(_A / _GAUGE[:, None], _B * _GAUGE),
    "dependent columns": LowRank(_A, _B[:, [0, 1, 2, 0, 1, 2]]),
    "correlated rows": LowRank(_SKEWED @ _A, _B),
    "rows of one direction, nearly": LowRank(_A * np.float32(0.02) + _A[:1], _B),
    "fewer rows than the rank": LowRank(_A, _B[:3]),
    "shorter than float32 likes": LowRank(_A * np.float32(1e-33), _B * np.float32(1e30)),
}


def _dense(update):
    return update.scale * (update.B.astype(np.float64) @ update.A.astype(np.float64))


def _rounding(update):
    lengths = np.linalg.norm(update.B.astype(np.float64), axis=0)
    lengths = lengths * np.linalg.norm(update.A.astype(np.float64), axis=1)
    return 2.0**-24 * abs(update.scale) * lengths.sum()


@pytest.mark.parametrize("case", _CASES)
def test_singular_values_are_those_of_the_product(case):
    update = _CASES[case]
    core = gram_core(update)
    assert core is not None
    s = np.linalg.svd(_dense(update))[1][: len(core.s)]
    floor = max(*update.shape, update.rank) * _rounding(update)
    np.testing.assert_allclose(core.s, s, rtol=0, atol=floor)
    seen = core.s > 0.0
    np.testing.assert_allclose(core.s[seen], s[seen], rtol=1e-6, atol=_rounding(update))


@pytest.mark.parametrize("case", _CASES)
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_leading_components_leave_the_least_error(case, rank):
    update = _CASES[case]
    kept = recompress(update, FixedRank(rank))
    error = np.linalg.norm(_dense(kept) - _dense(update))
    best = np.linalg.norm(np.linalg.svd(_dense(update))[1][kept.rank :])
    assert error <= best + max(update.shape) * _rounding(update)
    np.testing.assert_allclose(kept.A @ kept.A.T, np.eye(kept.rank), atol=1e-6)


@pytest.mark.parametrize("case", _CASES)
def test_an_even_split_gives_both_factors_one_gram_matrix(case):
    even = balanced(_CASES[case])
    gram_a, gram_b = even.A @ even.A.T, even.B.T @ even.B
    np.testing.assert_allclose(gram_a, gram_b, rtol=0, atol=1e-6 * np.trace(gram_a))


def test_nothing_is_kept_of_a_scale_of_zero():
    assert recompress(LowRank(_A, _B, 0.0)).rank == 0


@pytest.mark.parametrize(
    "update",
    [
        LowRank(_A[[0, 1, 2, 3, 4, 4]], _B),
        LowRank(_A * np.float32(1e-5) + _A[:1], _B),
        LowRank(_A[:, :5], _B),
        LowRank(_A[:0], _B[:, :0]),
        LowRank(_A.astype(np.float64), _B.astype(np.float64)),
        LowRank(_A * np.float32(np.nan), _B),
        LowRank(_A, _B * np.float32(np.inf)),
        LowRank(_A, _B * np.float32(1e36), 1e6),
        LowRank(_A, _B * np.float32(1e-30), 1e39),
    ],
    ids=[
        "rows that occur twice",
        "rows of one direction",
        "shorter rows than the rank",
        "empty",
        "float64",
        "not a number",
        "infinite",
        "beyond the range",
        "a scale beyond the range",
    ],
)
def test_what_only_decompositions_can_do_is_left_to_them(update):
    assert gram_core(update) is None
