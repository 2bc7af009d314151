"""Whatever Python's own unpicklers would import of any bytes, the reader of opcodes has seen."""

import io
import pickle
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loricate.integrity._opcodes import read_stream

# Opcodes that are likely to be valid together; two letters of argument keep lines short.
FRAGMENTS = [
    *(b"(", b")", b"0", b"1", b"2", b"N", b"]", b"}", b"l", b"d", b"t", b"a", b"e", b"s", b"u"),
    *(b"b", b"R", b"o", b"\x81", b"\x92", b"\x85", b"\x86", b"\x93", b"\x94", b"\x88", b"."),
    *(b"ca\nb\n", b"ia\nb\n", b"cos\ngetcwd\n", b"Vm\n", b"V\\u006f\n", b"S'x'\n", b"S'\xe9'\n"),
    *(b"X\x01\0\0\0n", b"\x8c\x01k", b"U\x01z", b"T\x01\0\0\0y", b"B\x01\0\0\0q", b"C\x01q"),
    *(b"p0\n", b"p7\n", b"g0\n", b"g7\n", b"q\0", b"h\0", b"r\1\0\0\0", b"j\1\0\0\0"),
    *(b"I1\n", b"I01\n", b"I1\0x\n", b"L5L\n", b"F1e3\n", b"K\1", b"M\1\1", b"J\1\1\1\1"),
    *(b"\x8a\1\1", b"G\0\0\0\0\0\0\0\0", b"\x80\2", b"\x80\4", b"\x95\1\0\0\0\0\0\0\0", b"P1\n"),
    *(b"\x8f", b"\x90", b"\x91", b"\x96\1\0\0\0\0\0\0\0a", b"ix\ny"),
]


class _Anything:
    """What every name stands for: it can be called and filled, and does nothing."""

    def __new__(cls, *arguments, **named):
        return object.__new__(cls)

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, value):
        pass

    def extend(self, values):
        pass

    def add(self, value):
        pass


def asked(unpickler, content):
    """Names that an unpickler of Python looks up, in order, until it ends or gives up."""
    found = []

    class Recording(unpickler):
        def find_class(self, module, name):
            found.append((module, name))
            return _Anything

        def persistent_load(self, number):
            return None

    try:
        Recording(io.BytesIO(content), encoding="latin-1").load()
    except Exception as error:
        return found, type(error)
    return found, None


def spelled_alike(found):
    """Without names in letters that callers choose an encoding for."""
    return {each for each in found if all(name.isascii() for name in each)}


@pytest.mark.parametrize("unpickler", [pickle.Unpickler, pickle._Unpickler])
@given(parts=st.lists(st.sampled_from(FRAGMENTS), max_size=14), end=st.sampled_from([b"", b"."]))
@example(parts=[b"(", b"ca\nb\n", b"o"], end=b".")
@example(parts=[b"Vm\n", b"X\x01\0\0\0n", b"\x93", b")", b"R"], end=b"")
@settings(max_examples=300, deadline=None)
def test_nothing_is_imported_that_is_not_seen(unpickler, parts, end) -> None:
    content = b"".join(parts) + end
    imports, error = asked(unpickler, content)
    stream = read_stream(io.BytesIO(content), max_opcodes=1000)
    assert spelled_alike(imports) <= set(stream.imports)
    if error is None:
        assert stream.is_complete


@pytest.mark.parametrize("body", [b"a", b"\\x41", b"\\\\", b"\xff", b"\\'"])
@pytest.mark.parametrize("size", [*range(65_530, 65_540), 131_072, 200_000])
def test_no_text_is_too_long_to_be_read_beyond(body, size) -> None:
    content = b"S'" + body * (size // len(body)) + b"'\n0cos\ngetcwd\n."
    imports, error = asked(pickle.Unpickler, content)
    assert (imports, error) == ([("os", "getcwd")], None)
    stream = read_stream(io.BytesIO(content), max_opcodes=10)
    assert stream.is_complete
    assert list(stream.imports) == imports


def test_imports_that_could_fill_the_memory_are_not_followed_to_the_end() -> None:
    content = b"".join(b"cos\nname%d\n" % i for i in range(20_000)) + b"."
    stream = read_stream(io.BytesIO(content), max_opcodes=100_000)
    assert len(stream.imports) == 10_000
    assert stream.is_too_long
    assert not stream.is_complete


@given(value=st.recursive(st.integers() | st.text() | st.floats() | st.binary(), st.lists))
@settings(max_examples=100, deadline=None)
def test_plain_values_end_and_import_nothing_of_weight(value) -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        file = io.BytesIO(pickle.dumps(value, protocol) + b"behind")
        stream = read_stream(file, max_opcodes=100_000)
        assert stream.is_complete
        assert file.read() == b"behind"
        # Old protocols have no opcode for bytes and call an encoder.
        assert {each.module for each in stream.imports} <= {"_codecs", "__builtin__", "builtins"}
        assert stream.is_marked == (protocol >= 2)


@given(content=st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_no_bytes_break_the_reader(content) -> None:
    stream = read_stream(io.BytesIO(content), max_opcodes=50)
    assert stream.n_opcodes <= 50


def test_mutated_pickles_hide_nothing(rng) -> None:
    """As above, of real pickles with some bytes changed."""
    draw = random.Random(int(rng.integers(1 << 30)))
    value = {"a": [1.5, "x", (len, print)], "b": io.BytesIO, "c": {1, 2}}
    for protocol in range(6):
        for _ in range(150):
            content = bytearray(pickle.dumps(value, protocol))
            for _ in range(draw.randint(0, 3)):
                content[draw.randrange(len(content))] = draw.randrange(256)
            imports, _ = asked(pickle.Unpickler, bytes(content))
            stream = read_stream(io.BytesIO(content), max_opcodes=1000)
            assert spelled_alike(imports) <= set(stream.imports)
