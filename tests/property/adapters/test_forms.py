"""Through any chain of forms the dense updates stay, and after the first form every bit does."""

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.adapters import sgm
from loricate.adapters.adapter import Adapter, Target, Update
from loricate.adapters.files import open_adapter, save_adapter
from loricate.adapters.formats.diffusers import Diffusers
from loricate.adapters.formats.kohya import Kohya
from loricate.adapters.formats.peft import PEFT
from loricate.adapters.tensors import TensorFile
from loricate.testing.strategies import exact_dense, factors_cases

WHOLE = {
    "diffusers": Diffusers(),
    "kohya": Kohya(),
    "kohya, unpadded": Kohya(pad=False),
    "kohya, dotless": Kohya(blocks="diffusers"),
}
SINGLE = {"peft": PEFT(), "peft, flat": PEFT(tower=False), "lone model": Diffusers(lone=True)}

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
    dtype = draw(st.sampled_from(("float32", "float64")))
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


@settings(max_examples=40)
@given(adapters(), st.lists(st.sampled_from([*WHOLE, *SINGLE]), min_size=1, max_size=4))
def test_chains_keep_the_update(adapter, chain):
    current = first = None
    for form in chain:
        with tempfile.TemporaryDirectory() as folder:
            current = through(form, current or adapter, Path(folder))
        first = first or current
    assert current.keys() == adapter.keys()
    assert current.metadata["note"] == adapter.metadata["note"]
    for target, update in adapter.items():
        before, after = exact_dense(update.factors), exact_dense(current[target].factors)
        size = abs(update.factors.scale) * np.linalg.norm(update.factors.A)
        atol = 1e-6 * size * np.linalg.norm(update.factors.B)
        np.testing.assert_allclose(after, before, rtol=0, atol=atol)
        assert current[target].kernel == update.kernel
        np.testing.assert_array_equal(after, exact_dense(first[target].factors))


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
