"""The raw header keeps what parsers resolve."""

import json

import pytest

from loricate.adapters.tensors import MAX_TENSORS, TensorFile
from loricate.basics.errors import HostileFileError
from loricate.integrity.raw_header import is_safetensors, read_header


@pytest.fixture
def written(tmp_path):
    def write(text: bytes, *, data: bytes = b"", length: int | None = None, name="x.safetensors"):
        path = tmp_path / name
        stated = len(text) if length is None else length
        path.write_bytes(stated.to_bytes(8, "little") + text + data)
        return path

    return write


def test_repeated_keys_are_kept_in_order(written) -> None:
    text = b'{"a": {"dtype": "F32", "dtype": "F16"}, "__metadata__": {"k": "1", "k": "2"}, "a": {}}'
    header = read_header(written(text))
    assert header.entries.repeated() == ("a",)
    assert [name for name, _ in header.tensors] == ["a", "a"]
    assert header.tensors[0][1].repeated() == ("dtype",)
    assert header.metadata == (("k", "1"), ("k", "2"))
    assert header.stated == {"k": "2"}


def test_two_metadata_objects_are_both_read(written) -> None:
    text = b'{"__metadata__": {"a": "1"}, "__metadata__": {"b": 2}}'
    header = read_header(written(text))
    assert header.metadata == (("a", "1"), ("b", 2))
    assert header.stated == {"a": "1"}
    assert header.tensors == ()


def test_blanks_are_those_outside_of_text(written) -> None:
    text = b' {"a \\" b":\t"  x  "}\n\n'
    assert list(read_header(written(text)).blanks()) == [b" ", b"\t", b"\n\n"]


@pytest.mark.parametrize(
    ("text", "length", "error"),
    [
        (b"{}", 100, "beyond the file has"),
        (b"{", None, "not JSON"),
        (b"[]", None, "no JSON object"),
        (b'{"a": "\xff"}', None, "not JSON"),
        (b'{"a":' * 100_000, None, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", None, "not JSON"),
    ],
)
def test_what_is_wrong_is_told(written, text, length, error) -> None:
    header = read_header(written(text, length=length))
    assert error in header.error
    assert header.entries == ()


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": [' + b"[]," * 1_100_000 + b"[]]}",
        b'{"a": [' + b"0," * 1_100_000 + b"0]}",
        b"{" + b",".join(b'"%d": ""' % i for i in range(1_100_000)) + b"}",
        b'{"a": ' + b"[" * 1_100_000,
    ],
    ids=["lists", "numbers", "keys", "depth"],
)
def test_a_header_of_too_much_is_not_parsed(written, text) -> None:
    path = written(text)
    assert "more in it than 65536 tensors need" in read_header(path).error
    with pytest.raises(HostileFileError, match="65536"):
        TensorFile(path)


def test_text_of_metadata_counts_too(written) -> None:
    few, many = (b'{"__metadata__": {"k": "' + b"a, " * n + b'"}}' for n in (10**6, 1_100_000))
    assert len(read_header(written(few)).stated["k"]) == 3 * 10**6
    assert "more in it than 65536 tensors need" in read_header(written(many)).error


def test_more_tensors_than_any_model_has_are_refused(written) -> None:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = json.dumps(dict.fromkeys(map(str, range(MAX_TENSORS)), entry)).encode()
    assert len(TensorFile(written(text))) == MAX_TENSORS
    text = json.dumps(dict.fromkeys(map(str, range(MAX_TENSORS + 1)), entry)).encode()
    with pytest.raises(HostileFileError, match="at most 65536 tensors"):
        TensorFile(written(text))


def test_an_oversized_header_is_not_read(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(200_000_016)
    header = read_header(path)
    assert "20000000" in header.error
    assert header.text == b""


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (b"\x02" + b"\0" * 7 + b"{}", "x.bin", True),
        (b"\x04" + b"\0" * 7 + b" \n{}", "x.bin", True),
        (b"\x00" * 8 + b"{}", "x.bin", True),
        (b"\x02" + b"\0" * 7 + b"[]", "x.bin", False),
        (b"\x02" + b"\0" * 7 + b"[]", "x.safetensors", True),
        (b"#!/bin/sh {}", "x.safetensors", False),
        (json.dumps({"abcdefg": {}}).encode(), "x.json", False),
        (b"\x02\0\0", "x.safetensors", False),
    ],
)
def test_bytes_tell_what_a_file_is(tmp_path, content, name, expected) -> None:
    (tmp_path / name).write_bytes(content)
    assert is_safetensors(tmp_path / name) is expected
