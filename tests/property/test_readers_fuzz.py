"""Law 11, all readers: bytes from outside are read or refused, quickly, and never anything else."""

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


def hostile_header(raw):
    return len(raw).to_bytes(8, "little") + raw


REGRESSIONS = {
    # Found by the fuzzer; each once ended in something else than a refusal.
    "65 axes": (
        "header",
        b'{"a":{"dtype":"F32","shape":[' + b"1," * 64 + b'1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "empty and immense": (
        "header",
        b'{"a":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]}}',
        b"",
    ),
}


@pytest.mark.parametrize("case", REGRESSIONS)
def test_what_the_fuzzer_found_stays_mended(case, sound):
    name, header, rest = REGRESSIONS[case]
    folder, _ = sound[name]
    start = time.perf_counter()
    refusal = attempt(READER[name], folder, hostile_header(header) + rest)
    assert isinstance(refusal, LoricateError)
    assert time.perf_counter() - start < 1.0
