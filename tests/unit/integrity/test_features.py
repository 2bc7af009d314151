"""Features of updates, against dense linear algebra."""

import numpy as np
import pytest

from loricate.adapters.adapter import Adapter, Target, Update
from loricate.integrity.features import BASE_FEATURES, SPECTRAL_FEATURES, features
from loricate.lowrank.factors import LowRank


class Weights(dict[tuple[str, str], np.ndarray]):
    def weight(self, component, module):
        return self.get((component, module))


def of(*updates, base=None):
    adapter = Adapter({Target("unet", f"m{i}"): update for i, update in enumerate(updates)})
    return features(adapter, base)


def spiked(s, shape, rng):
    u, v = (np.linalg.qr(rng.standard_normal((n, len(s))))[0] for n in shape)
    return LowRank(v.T, u * s, 0.5)


def test_a_known_spectrum(rng):
    s = np.array([4.0, 2.0, 1.0])
    found = of(Update(spiked(s, (40, 30), rng)))
    p = s / s.sum()
    expected = {
        "frobenius": 0.5 * np.linalg.norm(s),
        "spectral": 2.0,
        "energy_share": 16 / 21,
        "entropy": -float(np.sum(p * np.log(p))) / np.log(3),
        "stable_rank": 21 / 16,
        "numerical_rank": 3,
        "rank": 3,
    }
    assert found.names == SPECTRAL_FEATURES
    assert found.targets == (Target("unet", "m0"),)
    for name, value in expected.items():
        assert found.column(name)[0] == pytest.approx(value, rel=1e-9), name


def test_kurtosis_is_that_of_the_entries(rng):
    a, b = rng.standard_normal((5, 40)), rng.standard_normal((60, 5))
    entries = b @ a
    z = (entries - entries.mean()) / entries.std()
    assert of(Update(LowRank(a, b))).column("kurtosis")[0] == pytest.approx(np.mean(z**4))


def test_kernels_are_flattened_and_zeros_are_zeros(rng):
    a, b = rng.standard_normal((2, 3, 3, 3)), rng.standard_normal((8, 2, 1, 1))
    kernel = Update.from_factors(a, b)
    matrix = Update.from_factors(a.reshape(2, -1), b.reshape(8, 2))
    found = of(kernel, matrix, Update(LowRank(a.reshape(2, -1), np.zeros((8, 2)))))
    np.testing.assert_array_equal(found.values[0], found.values[1])
    assert found.column("rank")[2] == 2
    assert not found.values[2, np.array(found.names) != "rank"].any()


def test_doubled_rows_are_no_rank(rng):
    a, b = rng.standard_normal((2, 30)), rng.standard_normal((40, 4))
    found = of(Update(LowRank(np.concatenate([a, a]), b)))
    assert found.column("numerical_rank")[0] == 2
    assert found.column("rank")[0] == 4


def test_an_intruder_and_a_known_direction(rng):
    shape = (48, 40)
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in shape)
    outside, u = u[:, 40:41], u[:, :40]
    s = np.linspace(2.0, 1.0, 40)
    base = Weights({("unet", f"m{i}"): (u * s) @ v.T for i in range(2)})
    spike = LowRank(v[:, :1].T, 8.0 * outside)
    along = LowRank(v[:, :1].T, 8.0 * u[:, :1])
    found = of(Update(spike), Update(along), base=base)
    assert found.names == SPECTRAL_FEATURES + BASE_FEATURES
    np.testing.assert_allclose(found.column("relative_spectral"), 4.0, rtol=1e-6)
    np.testing.assert_allclose(found.column("relative_frobenius"), 8.0 / np.linalg.norm(s))
    assert found.column("intruders").tolist() == [1.0, 0.0]
    assert found.column("base_overlap")[1] == pytest.approx(1.0)
    assert found.column("base_overlap")[0] == pytest.approx(0.0)


def test_large_weights_are_sketched(rng):
    d = 400
    weight = rng.standard_normal((d, d)) / np.sqrt(d)
    u, s, vh = np.linalg.svd(weight)
    outside = rng.standard_normal((d, 1)) / np.sqrt(d)
    base = Weights({("unet", "m0"): weight, ("unet", "m1"): weight})
    spike = LowRank(rng.standard_normal((1, d)) / np.sqrt(d), 5.0 * outside)
    along = LowRank(vh[:1], 5.0 * u[:, :1])
    found = of(Update(spike), Update(along), base=base)
    # A sketch sees at most the largest value, and nearly all of it.
    ratio = found.column("relative_spectral") / (found.column("spectral") / s[0])
    assert np.all((ratio >= 1 - 1e-5) & (ratio < 1.1))
    assert found.column("intruders")[0] >= 1


def test_a_module_the_base_lacks_or_has_in_another_shape_has_nan(rng):
    update = Update(LowRank(rng.standard_normal((2, 6)), rng.standard_normal((5, 2))))
    found = of(update, update, base=Weights({("unet", "m1"): np.ones((6, 5))}))
    assert np.isnan(found.values[:, len(SPECTRAL_FEATURES) :]).all()
