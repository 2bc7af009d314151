"""Through any chain of forms the dense updates stay, and after the first form every bit does.

A merged model is a form as well, which costs rounding at the size of its weights.
"""

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.adapters.formats.diffusers import Diffusers
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.formats.merged import Merged
from loricate.adapters.formats.peft import PEFT
from loricate.adapters.tensors import TensorFile, save_tensors
from loricate.basics.arrays import to_numpy, tolerance, unit_roundoff
from loricate.lowrank.rules import NumericalRank
from loricate.testing.strategies import DTYPES, exact_dense, factors_cases

WHOLE = {
    "diffusers": Diffusers(),
    "kohya": Kohya(),
    "kohya, unpadded": Kohya(pad=False),
    "kohya, dotless": Kohya(blocks="diffusers"),
}
SINGLE = {"peft": PEFT(), "peft, flat": PEFT(tower=False), "lone model": Diffusers(lone=True)}
FORMS = [*WHOLE, *SINGLE]

NAMES = [
    Target(component, module)
    for component, family in (
        ("unet", "sd1"),
        ("unet", "sdxl"),
        ("text_encoder", "sd1"),
        ("text_encoder_2", "sdxl"),
    )
    for module in sgm.modules(component, family)
    if "norm" not in module and "embedding." not in module
]


@st.composite
def adapters(draw):
    """Adapters of Stable Diffusion, of mixed ranks, layers and scales."""
    dtype = draw(st.sampled_from(DTYPES))
    targets = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    updates = {}
    for target in targets:
        kernel = draw(st.sampled_from(((), (1, 1), (3, 3)))) if target.component == "unet" else ()
        c_in = draw(st.integers(2, 4))
        shape = (draw(st.integers(2, 6)), c_in * int(np.prod(kernel)))
        case = draw(factors_cases(shape=shape, dtypes=(dtype,), libraries=("numpy",)))
        updates[target] = Update(case.factors(), (c_in, *kernel) if kernel else None)
    return Adapter(updates, {"note": draw(st.text(st.characters(codec="ascii"), max_size=5))})


def through(form, adapter, folder):
    """The adapter after a round trip, component by component where a form holds only one."""
    if form in WHOLE:
        path = folder / "lora.safetensors"
        WHOLE[form].write(adapter, path)
        return open_adapter(path).adapter
    updates = {}
    for component in adapter.components:
        path = folder / f"{component}.{'' if form.startswith('peft') else 'safetensors'}"
        SINGLE[form].write(adapter.only([component]), path)
        part = open_adapter(path).adapter
        updates |= dict(part)
    return Adapter(updates, part.metadata)


def through_all(chain, adapter):
    """The adapter after each form of a chain."""
    for form in chain:
        with tempfile.TemporaryDirectory() as folder:
            adapter = through(form, adapter, Path(folder))
        yield adapter


def terms(update):
    """Bound of the norm of an update in which its terms do not cancel."""
    a, b = (np.linalg.norm(to_numpy(x)) for x in (update.factors.A, update.factors.B))
    return abs(update.factors.scale) * a * b


def rounding(update):
    """Bound of what folding the scale into B may change, in the Frobenius norm.

    Relative to the dense update, where its factors do not hide that it is far smaller than they.
    """
    size, dense = terms(update), np.linalg.norm(exact_dense(update.factors))
    # Near 0 half precision has fewer digits than its unit roundoff says.
    tiny = float(ml_dtypes.finfo(update.factors.B.dtype).smallest_subnormal)
    tiny *= np.linalg.norm(to_numpy(update.factors.A)) * np.sqrt(update.factors.B.size)
    return unit_roundoff(update.factors.B) * (4 * dense if size <= 4 * dense else size) + tiny


@settings(max_examples=60)
@given(adapters(), st.lists(st.sampled_from(FORMS), min_size=1, max_size=4))
def test_chains_keep_the_update(adapter, chain):
    first, *_, last = [*(found := list(through_all(chain, adapter))), found[-1]]
    assert last.keys() == adapter.keys()
    assert last.metadata["note"] == adapter.metadata["note"]
    for target, update in adapter.items():
        before, after = exact_dense(update.factors), exact_dense(last[target].factors)
        assert np.linalg.norm(after - before) <= rounding(update)
        assert last[target].kernel == update.kernel
        assert last[target].factors.B.dtype == update.factors.B.dtype
        np.testing.assert_array_equal(after, exact_dense(first[target].factors))


def through_merged(adapter):
    """The adapter that leads from a base to a merged model, and the norms of the base."""
    rng, updates, norms = np.random.default_rng(0), {}, {}
    for component in adapter.components:
        weights = {
            t.module: rng.standard_normal(update.weight_shape)
            for t, update in adapter.only([component]).items()
        }
        norms |= {(component, name): np.linalg.norm(weight) for name, weight in weights.items()}
        wide = any(u.factors.B.dtype == np.float64 for u in adapter.values())
        dtype = np.dtype(np.float64 if wide else np.float32)
        with tempfile.TemporaryDirectory() as name:
            base, out = (Path(name) / side / component for side in ("base", "out"))
            base.mkdir(parents=True)
            tensors = {f"{name}.weight": weight.astype(dtype) for name, weight in weights.items()}
            save_tensors(base / "model.safetensors", tensors)
            merged = Merged(base=base, component=component, rule=NumericalRank())
            merged.write(adapter.only([component]), out)
            updates |= dict(merged.read(out))
    return Adapter(updates), norms, dtype


@settings(max_examples=60)
@given(adapters(), st.lists(st.sampled_from(FORMS), max_size=2), st.sampled_from(FORMS))
def test_a_merged_model_is_one_more_form(adapter, chain, last):
    before = [adapter, *through_all(chain, adapter)][-1]
    merged, norms, dtype = through_merged(before)
    after = next(through_all([last], merged)) if merged else merged
    assert after.keys() == merged.keys() <= adapter.keys()
    for target, update in adapter.items():
        dense = exact_dense(update.factors)
        # What vanishes in the rounding of the weight was no change, and is not in the adapter.
        found = exact_dense(after[target].factors) if target in after else 0.0
        size = np.linalg.norm(dense)
        noise = 4 * unit_roundoff(dtype) * (norms[target] + terms(update))
        svd = np.sqrt(dense.size) * tolerance(np.asarray([size + noise]), dense.shape, dtype=dtype)
        assert np.linalg.norm(found - dense) <= rounding(update) + noise + svd
        assert target not in after or after[target].kernel == update.kernel


@settings(max_examples=25)
@given(adapters())
def test_kohya_states_alpha_equal_to_the_rank(adapter):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        save_adapter(adapter, path, form="kohya")
        tensors = TensorFile(path)
        downs = [key for key in tensors if key.endswith(".lora_down.weight")]
        assert len(downs) == len(adapter)
        for key in downs:
            alpha = tensors[key.replace(".lora_down.weight", ".alpha")]
            assert float(alpha) == tensors.infos[key].shape[0]


@given(st.sampled_from(NAMES), st.integers(0, 3))
def test_known_names_come_back_from_underscores(target, seed):
    rng = np.random.default_rng(seed)
    update = Update.from_factors(rng.standard_normal((1, 2)), rng.standard_normal((2, 1)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lora.safetensors"
        save_adapter(Adapter({target: update}), path, form="kohya")
        assert list(open_adapter(path).adapter) == [target]
