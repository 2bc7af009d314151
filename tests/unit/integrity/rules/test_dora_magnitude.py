"""Magnitudes of DoRA beside the norms they take the place of."""

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.integrity.finding import NotVerified, Severity
from loricate.integrity.rules.dora_magnitude import DoraMagnitude
from loricate.integrity.scan import scan

ENDS = [".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"]
MODULES = {"proj_in": (12, 8), "conv_in": (12, 8, 3, 3)}
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def weights(rng, tmp_path):
    """A base of a linear layer and a convolution, as arrays; its folder is ``base``."""
    found = {f"{name}.weight": rng.standard_normal(shape) for name, shape in MODULES.items()}
    tensors = {name: array.astype(np.float32) for name, array in found.items()}
    save_tensors(tmp_path / "base" / UNET, tensors)
    return tensors


def adapted(weights, rng, name, magnitude, end):
    """Tensors of a pair, and the magnitudes that base plus update has, changed."""
    shape = MODULES[name]
    a = 0.1 * rng.standard_normal((2, *shape[1:])).astype(np.float32)
    b = rng.standard_normal((shape[0], 2, *(1,) * (len(shape) - 2))).astype(np.float32)
    total = weights[f"{name}.weight"].astype(np.float64) + np.einsum(
        "or,r...->o...", b.reshape(shape[0], 2), a
    )
    is_columns = end == ".dora_scale" and magnitude.__name__ == "columns"
    axes = (0, *range(2, len(shape))) if is_columns else tuple(range(1, len(shape)))
    norms = np.sqrt(np.sum(total**2, axis=axes))
    sides = (1, -1) if is_columns else (-1,)
    stored = magnitude(norms).astype(np.float32)
    flat = stored.reshape(*sides, *(1,) * (len(shape) - len(sides)))
    if end.startswith(".lora_magnitude"):
        flat = stored.reshape(1, -1, 1, 1) if len(shape) > 2 else stored
    prefix = f"unet.{name}"
    return {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b, prefix + end: flat}


def columns(norms):
    return norms


def rows(norms):
    return norms


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("which", [rows, columns])
def test_the_norms_of_base_plus_update_are_in_order(
    judged, weights, rng, tmp_path, name, end, which
):
    tensors = adapted(weights, rng, name, which, end)
    assert judged(DoraMagnitude(), tensors, base=tmp_path / "base") == []
    path = tmp_path / "adapter.safetensors"
    open_ones = {each.rule for each in scan([path], base=tmp_path / "base").not_verified}
    assert "unjudged_updates" not in open_ones
    assert scan([path], base=tmp_path / "base").outcome() == "pass"
    assert scan([path]).outcome() == "inconclusive"


@pytest.mark.parametrize(
    ("factor", "severity"),
    [
        (1000.0, Severity.HIGH),
        (10.0, Severity.HIGH),
        (5.0, Severity.MEDIUM),
        (3.0, None),
        (0.7, None),
        (0.4, Severity.MEDIUM),
        (0.2, Severity.HIGH),
        (0.0, Severity.HIGH),
        (-1.0, Severity.HIGH),
    ],
)
@pytest.mark.parametrize("name", MODULES)
def test_how_grave_it_is_depends_on_what_is_left(
    judged, weights, rng, tmp_path, name, factor, severity
):
    tensors = adapted(weights, rng, name, lambda norms: factor * norms, ".dora_scale")
    found = judged(DoraMagnitude(), tensors, base=tmp_path / "base")
    assert [each.severity for each in found] == ([] if severity is None else [severity])
    if found:
        assert found[0].evidence["whole"] == pytest.approx(factor, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("factor", [20.0, 0.05, -1.0])
def test_a_single_row_is_seen(judged, weights, rng, tmp_path, factor):
    def one(norms):
        return np.where(np.arange(len(norms)) == 3, factor, 1.0) * norms

    tensors = adapted(weights, rng, "proj_in", one, ".dora_scale")
    (found,) = judged(DoraMagnitude(), tensors, base=tmp_path / "base")
    assert found.severity is Severity.MEDIUM


@pytest.mark.parametrize("shape", [(5,), (7, 1)])
def test_what_fits_no_weight_is_open(judged, weights, rng, tmp_path, shape):
    tensors = adapted(weights, rng, "proj_in", rows, ".dora_scale")
    tensors["unet.proj_in.dora_scale"] = np.ones(shape, np.float32)
    tensors["unet.nowhere.dora_scale"] = np.ones(4, np.float32)
    found = judged(DoraMagnitude(), tensors, base=tmp_path / "base")
    assert [isinstance(each, NotVerified) for each in found] == [True, True]
    assert {each.where for each in found} == {"unet.proj_in", "unet.nowhere"}


def test_a_weight_of_one_axis_is_none_that_fits(judged, tmp_path):
    flat = {"proj_in.weight": np.ones(12, np.float32)}
    save_tensors(tmp_path / "base" / UNET, flat)
    pair = {
        f"unet.proj_in.lora_{side}.weight": np.zeros(shape, np.float32)
        for side, shape in (("A", (1, 1)), ("B", (12, 1)))
    }
    for shape in ((), (1, 1), (12,), (12, 1)):
        magnitude = {"unet.proj_in.dora_scale": np.ones(shape, np.float32)}
        found = judged(DoraMagnitude(), pair | magnitude, base=tmp_path / "base")
        assert [isinstance(each, NotVerified) for each in found] == [True]
