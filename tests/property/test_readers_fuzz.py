"""Law 11, all readers: bytes from outside are read or refused, quickly, and never anything else."""

import json
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.basics.errors import LoricateError
from loricate.testing.fuzzing import READERS, attempt, mutated, prepared

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

READER = {reader.name: reader for reader in READERS}
SCANS = {"config", "scan", "scan_peft"}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Folder and sound content of every reader."""
    folders = {name: tmp_path_factory.mktemp(name) for name in READER}
    return {name: (folders[name], prepared(READER[name], folders[name])) for name in READER}


@pytest.mark.parametrize("name", READER)
def test_sound_files_are_read(name, sound):
    folder, content = sound[name]
    assert attempt(READER[name], folder, content) is None


@pytest.mark.parametrize("name", READER)
@settings(max_examples=60)
@given(st.data())
def test_mutated_files_are_read_or_refused(name, sound, data):
    folder, content = sound[name]
    # Decisions by hypothesis would shrink; a seed makes ten times as many inputs in the time.
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(1 if name in SCANS else 4):
        refusal = attempt(READER[name], folder, mutated(content, READER[name].kind, rng))
        assert refusal is None or isinstance(refusal, LoricateError)


@pytest.mark.parametrize("name", READER)
@settings(max_examples=30)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name, sound, content):
    folder, _ = sound[name]
    refusal = attempt(READER[name], folder, content)
    assert refusal is None or isinstance(refusal, LoricateError)


@pytest.mark.parametrize("kind", ["safetensors", "json", "lines"])
def test_mutations_repeat_with_their_generator_and_differ_without(kind, sound):
    content = next(sound[name][1] for name in READER if READER[name].kind == kind)
    several = [
        [mutated(content, kind, rng) for _ in range(50)]
        for rng in (random.Random(1), random.Random(1), random.Random(2))
    ]
    assert several[0] == several[1] != several[2]
    assert len(set(several[0])) > 25


def test_some_mutations_of_every_kind_stay_alive(sound):
    for name in READER.keys() - SCANS:
        folder, content = sound[name]
        rng = random.Random(0)
        several = [mutated(content, READER[name].kind, rng) for _ in range(150)]
        read = [each for each in several if attempt(READER[name], folder, each) is None]
        assert len(read) > 3, name
        assert len(set(read)) > 1, name


def file_of(header, data=b""):
    """A safetensors file with one header in all its readers."""
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def tensor(*shape, size=4):
    return {"dtype": "F32", "shape": list(shape), "data_offsets": [0, size]}


# Found by the fuzzer: each once ended in something else than a refusal or a report.
REGRESSIONS = {
    "alpha without factors beside a name without letters": (
        "scan",
        file_of({"": tensor(1), "lora_unet_a.alpha": tensor(size=0) | {"shape": [0]}}, bytes(4)),
    ),
    "65 axes": ("header", file_of({"a": tensor(*[1] * 65)}, bytes(4))),
    "empty and immense": ("header", file_of({"a": tensor(0, 2**62, size=0)})),
    "a factor without axes": (
        "scan",
        file_of({"lora_unet_a.lora_down.weight": tensor()}, bytes(4)),
    ),
    "a factor of rank 0": ("scan", file_of({"lora_unet_a.lora_down.weight": tensor(0, 4, size=0)})),
}


@pytest.mark.parametrize("case", REGRESSIONS)
def test_what_the_fuzzer_found_stays_mended(case, sound):
    name, content = REGRESSIONS[case]
    folder, _ = sound[name]
    start = time.process_time()
    refusal = attempt(READER[name], folder, content)
    assert (refusal is None) == (name == "scan")
    assert time.process_time() - start < 1.0
