"""One digest for many tensors, by hand and with torch."""

import hashlib

import numpy as np
import pytest

from loricate.integrity.digest import digest


def test_by_hand() -> None:
    header = b'["w","uint8",[2]]'
    expected = hashlib.sha256(len(header).to_bytes(8, "big") + header + b"\x01\x02").hexdigest()
    assert digest({"w": np.array([1, 2], dtype=np.uint8)}) == expected


def test_nothing_has_a_digest_too() -> None:
    assert digest({}) == hashlib.sha256().hexdigest()


def test_numpy_and_torch_agree_and_strides_do_not_count() -> None:
    torch = pytest.importorskip("torch")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = digest({"w": array})
    assert digest({"w": torch.from_numpy(array)}) == expected
    assert digest({"w": torch.from_numpy(array.T.copy()).T}) == expected
    assert digest({"w": array.T}) != expected


def test_half_precisions_of_the_same_bytes_differ() -> None:
    torch = pytest.importorskip("torch")
    zeros = torch.zeros(3)
    assert digest({"w": zeros.half()}) != digest({"w": zeros.bfloat16()})


def test_negative_zero_and_the_bits_of_nan_count() -> None:
    assert digest({"w": np.array([0.0])}) != digest({"w": np.array([-0.0])})
    quiet, other = (
        np.array([bits], dtype=np.uint64).view(np.float64) for bits in (0x7FF8 << 48, 0x7FF9 << 48)
    )
    assert np.isnan(quiet).all()
    assert np.isnan(other).all()
    assert digest({"w": quiet}) != digest({"w": other})
