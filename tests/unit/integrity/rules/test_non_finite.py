"""NaN and infinity, down to eight bits."""

import ml_dtypes
import numpy as np
import pytest

from loricate.integrity.finding import Severity
from loricate.integrity.rules.non_finite import NonFinite

FLOATS = (
    np.float64,
    np.float32,
    np.float16,
    ml_dtypes.bfloat16,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
)
CASES = [
    (dtype, value)
    for dtype in FLOATS
    for value in (np.nan, -np.nan, np.inf, -np.inf)
    if np.isnan(value) or dtype is not ml_dtypes.float8_e4m3fn
]


@pytest.mark.parametrize(("dtype", "value"), CASES)
def test_every_kind_in_every_dtype_fires(judged, dtype, value):
    bad = np.ones((3, 5)).astype(dtype)
    bad[1, 2] = bad[2, 0] = np.asarray(value).astype(dtype)
    (found,) = judged(NonFinite(), {"good": np.ones(7).astype(dtype), "bad": bad})
    assert (found.severity, found.where) == (Severity.HIGH, "bad")
    assert found.evidence == {"n_values": 2, "dtype": np.dtype(dtype).name}


def test_every_finite_value_is_clean(judged):
    tensors = {}
    for dtype in FLOATS[2:]:
        unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
        values = np.arange(2 ** (8 * unsigned.itemsize), dtype=unsigned).view(dtype)
        with np.errstate(invalid="ignore"):
            tensors[np.dtype(dtype).name] = values[np.isfinite(values)]
    tensors["integers"] = np.full(3, 0x7C00, np.uint16)
    tensors["nothing"] = np.empty((0, 4), np.float32)
    assert not judged(NonFinite(), tensors)
