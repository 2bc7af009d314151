"""What is baked in comes out again to the bit, in every dtype and whatever the sizes."""

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.adapters._exact import Change
from loricate.adapters.baking import FLOATS, Patch, baked_blocks, bits, restored_blocks
from loricate.adapters.formats.merged import Merged
from loricate.adapters.parts import open_parts
from loricate.adapters.restored_files import Unbaking, unbake_part
from loricate.adapters.tensors import save_tensors
from loricate.adapters.undo import Correction, CorrectionWriter, Undo, undo_path
from loricate.basics.arrays import to_numpy, unit_roundoff
from loricate.lowrank.factors import LowRank
from loricate.testing.strategies import DTYPES, adapters, exact_dense, factors_cases, seeds, sizes

# Below the normal numbers a dtype rounds to multiples of its smallest one.
SMALLEST = {n: float(ml_dtypes.finfo(dtype).smallest_subnormal) for n, dtype in FLOATS.items()}
DTYPE = st.sampled_from(DTYPES)


@settings(max_examples=60)
@given(factors_cases(), st.randoms(use_true_random=False), st.booleans())
def test_a_change_is_the_product_and_no_order_of_summation_matters(case, random, transposed):
    update = case.factors()
    order = random.sample(range(update.rank), update.rank)
    shuffled = LowRank(update.A[order, :], update.B[:, order], update.scale)
    change = Change(update, transposed=transposed)
    dense = change.rows(0, change.shape[0])
    exact = exact_dense(update).T if transposed else exact_dense(update)
    largest = [np.abs(to_numpy(factor)).max() for factor in (update.A, update.B)]
    bound = 2.0**-40 * update.rank * abs(update.scale) * np.prod(largest)
    assert np.all(np.abs(dense - exact) <= bound)
    assert np.array_equal(dense, Change(shuffled, transposed=transposed).rows(0, len(dense)))
    rows = [change.rows(row, row + 1) for row in range(len(dense))]
    assert np.array_equal(dense, np.concatenate(rows))


@settings(max_examples=80)
@given(factors_cases(), DTYPE, DTYPE, st.integers(-30, 4), seeds)
def test_a_corrected_weight_is_the_base_to_the_bit(case, of_base, stored, exponent, seed):
    patch = Patch(0, case.factors().scaled(2.0**exponent))
    rng = np.random.default_rng(seed)
    sparse = rng.standard_normal(patch.update.shape) * rng.integers(0, 2, patch.update.shape)
    base = sparse.astype(FLOATS[of_base])
    writer, blocks = CorrectionWriter(), list(baked_blocks(base, [patch], FLOATS[stored]))
    for block in blocks:
        writer.add(block)
    baked = np.concatenate([block.after for block in blocks])
    restored = np.concatenate(list(restored_blocks(baked, [patch], base.dtype)))
    off = np.abs(to_numpy(restored) - to_numpy(base))
    bound = [unit_roundoff(array) * np.abs(to_numpy(array)) for array in (baked, restored)]
    assert np.all(off <= np.add(*bound) * (1 + 2**-7) + SMALLEST[stored] + SMALLEST[of_base])
    if (correction := writer.correction()) is not None:
        packed = correction.pack()
        unpacked = Correction.unpack(packed, restored.size, restored.dtype.itemsize)
        restored = unpacked.applied(restored)
    assert np.array_equal(bits(restored), bits(base))


@given(st.sampled_from((2, 4, 8)), sizes, seeds)
def test_corrections_survive_packing_and_garbage_is_refused(itemsize, n, seed):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, 2, n).astype(bool) | (np.arange(n) == 0)
    values = rng.integers(0, 2 ** (8 * itemsize) - 1, mask.sum(), dtype=f"u{itemsize}")
    packed = Correction(mask, values).pack()
    unpacked = Correction.unpack(packed, n, itemsize)
    assert np.array_equal(unpacked.mask, mask)
    assert np.array_equal(unpacked.values, values)
    for garbage in (packed[:7], packed[: len(packed) // 2], packed[::-1].copy()):
        with pytest.raises(ValueError):  # noqa: PT011 - zlib's words are not ours
            Correction.unpack(garbage, n, itemsize)
    with pytest.raises(ValueError, match="bytes"):
        Correction.unpack(packed, n + 8, itemsize)


@settings(max_examples=40)
@given(adapters(), DTYPE, st.sampled_from((None, "float32")), seeds)
def test_a_file_comes_back_byte_for_byte(adapter, of_base, stored, seed):
    rng = np.random.default_rng(seed)
    shapes = {f"{target.module}.weight": update.weight_shape for target, update in adapter.items()}
    shapes |= {"norm.bias": (3,), "scalar": (), "empty": (0, 2)}
    tensors = {
        n: np.asarray(rng.standard_normal(s)).astype(FLOATS[of_base]) for n, s in shapes.items()
    }
    tensors["steps"] = np.arange(3)
    with tempfile.TemporaryDirectory() as name:
        base, baked, restored = (Path(name) / stem for stem in ("base", "baked", "restored"))
        base = base.with_suffix(".safetensors")
        baked = baked.with_suffix(".safetensors")
        save_tensors(base, tensors, {"title": "a base"})
        Merged(base=base, component=None, dtype=stored).bake(adapter, baked, provenance={})
        (part,) = open_parts(baked, adapter)
        found = unbake_part(part, restored, Unbaking(undo=Undo.read(undo_path(baked))))
        assert {tensor.name for tensor in found} == tensors.keys()
        assert all(tensor.is_base for tensor in found)
        assert restored.read_bytes() == base.read_bytes()
