"""Archives are opened within bounds, and what is beyond them is said."""

import bz2
import gzip
import io
import struct
import time
import zipfile

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.integrity._parts import Bounds, Obstacle, Part, parts_of
from loricate.integrity._pickles import read_pickles
from loricate.integrity.rules.pickle import Pickle
from loricate.integrity.scan import scan
from loricate.testing.corpora._archives import tar_of, zip_of
from loricate.testing.corpora.pickles import call

OS = call("os", "getcwd")


def opened(content, **bounds):
    """Contents of the parts by name, and why others are not opened."""
    contents, why = {}, []
    for each in parts_of(Part("", io.BytesIO(content)), Bounds(**bounds)):
        if isinstance(each, Obstacle):
            why.append(each.why)
        else:
            each.file.seek(0)
            contents[each.name] = each.file.read()
    return contents, why


def array(values):
    """A file of numpy."""
    file = io.BytesIO()
    np.save(file, np.array(values))
    return file.getvalue()


def nested(depth, content=OS):
    for number in range(depth):
        content = zip_of(content, f"{number}.zip")
    return content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_members_of_a_zip_are_what_was_put_in(method) -> None:
    archive = zip_of(b"content" * 999, "a/b.txt", method)
    assert opened(archive) == ({"": archive, "a/b.txt": b"content" * 999}, [])


def test_names_say_where_in_nested_archives_a_part_is() -> None:
    contents, why = opened(zip_of(zip_of(tar_of(b"x"), "b"), "a"))
    assert list(contents) == ["", "a", "a/b", "a/b/pickle"]
    assert (contents["a/b/pickle"], why) == (b"x", [])


def test_archives_are_opened_four_deep() -> None:
    assert OS in opened(nested(4))[0].values()
    contents, why = opened(nested(5))
    assert OS not in contents.values()
    assert why == ["archives nested more than 4 deep"]


def test_what_is_nested_too_deep_is_not_verified(tmp_path) -> None:
    (tmp_path / "a.zip").write_bytes(nested(7))
    report = scan([tmp_path], rules=[Pickle()])
    assert (report.outcome(), len(report.not_verified)) == ("inconclusive", 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pkl", b"\x80\x02N." * 90_000 + OS),
        ("a.pkl", b"\x80\x02]\x00"),
        ("a.zip", nested(6)),
        ("a.gz", gzip.compress(b"text", mtime=0)),
        ("a.joblib", b"\x17 of a kind that nobody knows"),
        ("model.PT", b"\x17"),
        ("a.pkl.enc", bytes(99)),
        ("a.joblib", b"]\0\0\0\xff" + b"\xff" * 8 + bytes(99)),
        ("a.txt", b"]\0\0\0\xff" + b"\xff" * 8 + bytes(99)),
    ],
)
def test_what_cannot_be_followed_leaves_the_verdict_open(name, content, tmp_path) -> None:
    save_tensors(tmp_path / "clean.safetensors", {"x": np.ones(2)})
    assert scan([tmp_path], rules=[Pickle()]).outcome() == "pass"
    (tmp_path / name).write_bytes(content)
    report = scan([tmp_path], rules=[Pickle()])
    assert (report.outcome(), report.findings) == ("inconclusive", ())


@pytest.mark.parametrize("offset", [1 << 31, (1 << 32) - 1])
def test_a_member_out_of_place_hides_no_other(offset) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x")
        archive.writestr("b", OS)
    content = bytearray(file.getvalue())
    place = content.find(b"PK\1\2") + 42
    content[place : place + 4] = offset.to_bytes(4, "little")
    contents, why = opened(b"prefix" + bytes(content))
    assert contents["b"] == OS
    assert "not where" in why[0]


def test_what_goes_wrong_hides_nothing_found_before(tmp_path, monkeypatch) -> None:
    def parts(part, bounds):
        yield part
        raise KeyError("broken")

    (tmp_path / "a.pkl").write_bytes(OS)
    monkeypatch.setattr("loricate.integrity._pickles.parts_of", parts)
    pickled = read_pickles(tmp_path / "a.pkl")
    assert [each.module for each in pickled.imports] == ["os"]
    assert ["KeyError" in each.why for each in pickled.obstacles] == [True]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_bomb_is_not_blown_up(pack, tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(pack(bytes((1 << 26) + 1)))
    start = time.process_time()
    report = scan([tmp_path], rules=[Pickle()])
    assert time.process_time() - start < 5
    assert any("64 MiB" in each.why for each in report.not_verified)
    assert report.outcome() == "inconclusive"


def test_all_members_together_are_bounded() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(str(number), bytes(1000))
    contents, why = opened(file.getvalue(), n_bytes=2500, n_bytes_each=2000)
    assert [len(each) for name, each in contents.items() if name] == [1000, 1000, 500]
    assert set(why) == {"a compressed file that breaks off or is too large"}
    assert len(why) == 7
    assert opened(file.getvalue(), n_members=4)[1] == ["a zip archive of too many files"]


def test_an_archive_that_lists_one_file_again_and_again_ends() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", nested(3))
        for number in range(300):
            archive.filelist.append(archive.filelist[0])
            archive.NameToInfo[str(number)] = archive.filelist[0]
    contents, _ = opened(file.getvalue())
    assert len(contents) == 5


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"PK\x03\x04" + bytes(60), "directory"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(60), "7z"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), "HDF5"),
        (b"\x28\xb5\x2f\xfd" + bytes(60), "zstd"),
        (zip_of(OS, method=zipfile.ZIP_LZMA), "method 14"),
        (gzip.compress(b"x", mtime=0)[:-9], "gzip"),
    ],
)
def test_what_cannot_be_opened_is_said(content, word) -> None:
    _, why = opened(content)
    assert any(word in each for each in why)


def test_text_that_begins_like_something_compressed_is_text() -> None:
    for text in (b"x^2 + y^2 = 1", b"]\0\0", b"x\x9c"):
        assert opened(text) == ({"": text}, [])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", array([1.0, 2.0])),
        ("a.pkl", b"N."),
        ("a.pkl", b"I1\n."),
        ("a.bin", b'{"a": 1}'),
        ("a.pt", zip_of(b"text", "a.txt")),
        ("a.dat", b"of a kind that nobody knows"),
        ("a.txt", "]x".encode("utf-16-le") + bytes(99)),
    ],
)
def test_what_is_known_is_no_question(name, content, tmp_path) -> None:
    save_tensors(tmp_path / "clean.safetensors", {"x": np.ones(2)})
    (tmp_path / name).write_bytes(content)
    assert scan([tmp_path], rules=[Pickle()]).not_verified == ()


def test_a_safetensors_file_is_known_under_any_name(tmp_path) -> None:
    save_tensors(tmp_path / "a.pt", {"x": np.ones(2)})
    assert scan([tmp_path], rules=[Pickle()]).outcome() == "pass"


def wide_zip(*places):
    """A zip archive with wide ends that name the places of the directory."""
    archive = zip_of(b"text", "a.txt")
    begin, end = archive.find(b"PK\1\2"), archive.find(b"PK\5\6")
    wide = b"".join(
        struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, end - begin, begin + place)
        for place in places
    )
    return archive[:end] + wide + archive[end:]


def test_a_wide_end_that_leads_nowhere_hides_nothing() -> None:
    archive = wide_zip(0, 1 << 40, (1 << 63) + 5)
    contents, why = opened(archive)
    assert (contents["a.txt"], why) == (b"text", [])


def test_directories_are_read_within_bounds(monkeypatch) -> None:
    monkeypatch.setattr("loricate.integrity._parts._MAX_ENTRIES", 3)
    assert "a.txt" in opened(zip_of(b"text", "a.txt"))[0]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(4):
            archive.writestr(str(number), b"")
    assert opened(file.getvalue())[1] == ["a zip archive that lists more than is read"]


def test_parts_can_be_read_in_any_order() -> None:
    _, part = parts_of(Part("", io.BytesIO(zip_of(b"0123456789", "a"))), Bounds())
    part.file.seek(-3, io.SEEK_END)
    assert part.file.read() == b"789"
    part.file.seek(2)
    part.file.seek(1, io.SEEK_CUR)
    assert (part.file.read(2), part.file.tell()) == (b"34", 5)


def test_imports_of_all_pickles_together_are_bounded(tmp_path) -> None:
    path = tmp_path / "x.pkl"
    streams = [
        b"".join(b"cos\nname%d_%d\n0" % (i, j) for j in range(9_000)) + b"N." for i in range(3)
    ]
    path.write_bytes(b"".join(streams))
    found = read_pickles(path)
    assert len(found.imports) == 20_000
    assert [each.why for each in found.obstacles] == ["more imports than can be listed"]
    assert not found.obstacles[0].is_chance
