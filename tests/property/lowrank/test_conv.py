"""Law 7: kernels are matrices, and convolving with the update is updating the convolution."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loricate.basics.arrays import to_numpy, tolerance
from loricate.lowrank import conv
from loricate.testing.strategies import exact_dense, factors_cases, seeds

kernels = st.tuples(st.integers(1, 4), *[st.sampled_from((1, 2, 3))] * 2)


def convolve(image, kernel):
    """Plain cross-correlation without padding, as every deep-learning library defines it."""
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[2:], axis=(1, 2))
    return np.einsum("chwij,ocij->ohw", windows, kernel)


@st.composite
def updates(draw):
    kernel = draw(kernels)
    shape = (draw(st.integers(1, 6)), int(np.prod(kernel)))
    return kernel, draw(factors_cases(shape=shape))


@given(updates())
def test_kernel_and_matrix_round_trip(drawn):
    kernel, case = drawn
    matrix = case.factors().dense()
    back = conv.as_matrix(conv.as_kernel(matrix, kernel))
    np.testing.assert_array_equal(to_numpy(back), to_numpy(matrix))
    first, second = conv.as_pair(case.factors(), kernel)
    assert tuple(first.shape[1:]) == kernel
    assert tuple(second.shape[2:]) == (1, 1)
    np.testing.assert_array_equal(
        to_numpy(conv.from_pair(first, second).dense()), to_numpy(case.factors().baked().dense())
    )


@given(updates(), seeds)
def test_two_convolutions_equal_the_updated_one(drawn, seed):
    kernel, case = drawn
    update = case.factors()
    image = np.random.default_rng(seed).uniform(-1, 1, (kernel[0], 5, 4))
    first, second = map(to_numpy, conv.as_pair(update, kernel))
    dense = conv.as_kernel(exact_dense(update), kernel)
    # Every output pixel is a product of the matrix with a patch of norm at most sqrt(d_in).
    patch = np.sqrt(np.prod(kernel))
    atol = patch * tolerance(case.magnitude(), case.sides, dtype=update.B)
    np.testing.assert_allclose(
        convolve(convolve(image, first), second), convolve(image, dense), rtol=0, atol=atol
    )


@pytest.mark.parametrize("padding", [0, 1])
def test_torch_convolves_the_same(rng, padding):
    torch = pytest.importorskip("torch")
    image, kernel = rng.standard_normal((2, 6, 5)), rng.standard_normal((3, 2, 3, 3))
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    theirs = torch.nn.functional.conv2d(
        torch.asarray(image)[None], torch.asarray(kernel), padding=padding
    )
    np.testing.assert_allclose(theirs[0].numpy(), convolve(padded, kernel), atol=1e-13)
