"""Law 11, the files: what is damaged is refused before it is parsed, what is whole is exact."""

import json
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loricate.adapters.tensors import TensorFile, save_tensors, staged_folder
from loricate.basics.arrays import dtype_name, to_numpy
from loricate.basics.errors import HostileFileError, LoricateError
from loricate.testing.strategies import matrix_cases

files = st.dictionaries(st.sampled_from("abcd"), matrix_cases(), max_size=4)


def saved(folder, tensors):
    path = Path(folder) / "file.safetensors"
    save_tensors(path, tensors, {"note": "kept"})
    return path


@settings(max_examples=50)
@given(files)
def test_reading_undoes_writing(cases):
    tensors = {name: case.matrix() for name, case in cases.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = TensorFile(saved(folder, tensors))
        assert file.keys() == tensors.keys()
        assert file.metadata == {"note": "kept", "format": "pt"}
        for name, tensor in tensors.items():
            assert dtype_name(file[name]) == dtype_name(tensor)
            np.testing.assert_array_equal(to_numpy(file[name]), to_numpy(tensor))


@settings(max_examples=50)
@given(files, st.data())
def test_any_truncation_or_extension_is_refused(cases, data):
    with tempfile.TemporaryDirectory() as folder:
        path = saved(folder, {name: case.matrix() for name, case in cases.items()})
        content = path.read_bytes()
        length = data.draw(st.integers(0, len(content) + 9).filter(lambda n: n != len(content)))
        path.write_bytes(content[:length].ljust(length, b"\0"))
        with pytest.raises(HostileFileError):
            TensorFile(path)


@settings(max_examples=100)
@given(files, st.data())
def test_a_changed_header_is_refused_or_still_describes_the_file(cases, data):
    with tempfile.TemporaryDirectory() as folder:
        path = saved(folder, {name: case.matrix() for name, case in cases.items()})
        content = bytearray(path.read_bytes())
        end = 8 + int.from_bytes(content[:8], "little")
        content[data.draw(st.integers(0, end - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        try:
            file = TensorFile(path)
        except LoricateError:
            return
        start = 8 + int.from_bytes(content[:8], "little")
        assert start + sum(tensor.nbytes for tensor in file.values()) == len(content)


def entry(**changes):
    return {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}


HOSTILE = {
    "not JSON": b"{",
    "not an object": b"[]",
    "not UTF-8": b'{"\xff": 1}',
    "nested too deep": b"[" * 100_000,
    "twice the same key": b'{"a": {}, "a": {}}',
    "metadata of numbers": {"__metadata__": {"a": 1}},
    "no offsets": {"a": {"dtype": "F32", "shape": [1]}},
    "one key too many": {"a": entry(more=1)},
    "negative side": {"a": entry(shape=[-1, -1])},
    "truth as a side": {"a": entry(shape=[True])},
    "shape too large": {"a": entry(shape=[2])},
    "axes beyond any array": {"a": entry(shape=[1] * 65)},
    "sides beyond any array": {"a": entry(shape=[0, 2**62], data_offsets=[0, 0])},
    "beyond the file": {"a": entry(shape=[2], data_offsets=[0, 8])},
    "backwards": {"a": entry(data_offsets=[4, 0])},
    "gap": {"a": entry(data_offsets=[1, 5])},
    "overlap": {"a": entry(), "b": entry()},
    "hidden tail": {},
}


@pytest.mark.parametrize("header", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_refused(tmp_path, header):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(4))
    with pytest.raises(HostileFileError) as caught:
        TensorFile(path)
    assert caught.value.path == str(path)


def test_a_header_length_is_checked_before_anything_is_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)  # sparse: no bytes on disk
    with pytest.raises(HostileFileError, match="exceeds"):
        TensorFile(path)


def test_the_original_tool_reads_and_writes_the_same(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    tensors = {
        "half": torch.arange(6).reshape(2, 3).to(torch.bfloat16),
        "whole": torch.arange(3),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "theirs.safetensors")
    file = TensorFile(tmp_path / "theirs.safetensors")
    assert file["half"].dtype == ml_dtypes.bfloat16
    assert file["scalar"].shape == ()
    save_tensors(tmp_path / "ours.safetensors", dict(file))
    back = load_file(tmp_path / "ours.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = saved(tmp_path, {"a": np.ones(3)})
    before = path.read_bytes()
    with pytest.raises(LoricateError):
        save_tensors(path, {"a": np.ones(3), "b": np.array(["text"])})
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def write(fail):
        with staged_folder(tmp_path / "out") as folder:
            (folder / "one").write_text("1")
            if fail:
                raise RuntimeError("power cut")
            (folder / "two").write_text("2")

    with pytest.raises(RuntimeError, match="power cut"):
        write(fail=True)
    assert list(tmp_path.iterdir()) == []
    write(fail=False)
    (tmp_path / "out" / "mine").write_text("kept")
    write(fail=False)
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["mine", "one", "two"]
    assert [each.name for each in tmp_path.iterdir()] == ["out"]
