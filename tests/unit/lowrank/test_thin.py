"""Orthonormal bases of thin factors: whichever way they are found, they are what QR finds."""

import numpy as np
import pytest

from loricate.lowrank._thin import basis_of

_RNG = np.random.default_rng(0)
_PLAIN = _RNG.standard_normal((60, 5)).astype(np.float32)
_STRETCHED = _PLAIN * np.float32([1e-12, 1e-3, 1.0, 1e6, 1e12])
_DEPENDENT = np.concatenate([_PLAIN, _PLAIN[:, :2]], axis=1)
_GRADED = _PLAIN @ np.diag(np.float32([1.0, 1e-2, 1e-4, 1e-6, 1e-8])) @ _RNG.standard_normal((5, 5))
_HOLLOW = np.where(np.arange(5) == 2, np.float32(0.0), _PLAIN)
_CASES = {
    "plain": _PLAIN,
    "columns of all sizes": _STRETCHED,
    "dependent columns": _DEPENDENT,
    "ill-conditioned": _GRADED.astype(np.float32),
    "a zero column": _HOLLOW,
    "wide": _PLAIN[:3],
    "empty": _PLAIN[:, :0],
    "float64": _PLAIN.astype(np.float64),
}


@pytest.mark.parametrize("case", _CASES)
def test_a_basis_is_orthonormal_and_gives_the_matrix_back(case):
    matrix = _CASES[case]
    basis = basis_of(matrix)
    q = basis.rotated(np.eye(basis.r.shape[0]))
    np.testing.assert_allclose(q.T @ q, np.eye(q.shape[1]), atol=5e-7)
    lengths = np.linalg.norm(matrix, axis=0)
    assert (np.abs(q @ basis.r - matrix) <= 1e-6 * lengths).all()
    assert not np.tril(basis.r, -1).any()


def test_only_well_conditioned_matrices_go_through_their_gram_matrix():
    # Through float64; a QR decomposition stays in float32.
    through_gram = {case for case in _CASES if basis_of(_CASES[case]).r.dtype == np.float64}
    assert through_gram == {"plain", "columns of all sizes", "float64"}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(bad):
    matrix = _PLAIN.copy()
    matrix[3, 1] = bad
    assert not np.isfinite(basis_of(matrix).r).all()
