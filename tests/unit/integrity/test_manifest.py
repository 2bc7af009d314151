"""The manifest by hand: every digest from hashlib, every refusal with what it names."""

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from loricate.adapters.tensors import save_tensors
from loricate.basics.errors import (
    HostileFileError,
    IntegrityError,
    PrerequisiteError,
    UnsupportedError,
)
from loricate.integrity import hashing
from loricate.integrity.manifest import MANIFEST, differences, read_manifest
from loricate.recipes.manifest import manifest, survey


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "model"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "notes.txt").write_bytes(b"words")
    (root / "empty.json").write_bytes(b"")
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.empty((0, 4), "int64")}
    save_tensors(root / "w.safetensors", tensors)
    return root


def test_by_hand(folder):
    path, _ = manifest(folder)
    table = json.loads(path.read_bytes())
    weights = (folder / "w.safetensors").read_bytes()
    w = np.arange(6, dtype=np.float32).tobytes()
    assert (table["format"], table["version"]) == ("loricate-manifest", 1)
    assert table["files"] == {
        "deep/notes.txt": {"sha256": sha(b"words"), "size_bytes": 5},
        "empty.json": {"sha256": sha(b""), "size_bytes": 0},
        "w.safetensors": {
            "sha256": sha(weights),
            "size_bytes": len(weights),
            "tensors": {
                "none": {"dtype": "int64", "shape": [0, 4], "sha256": sha(b"")},
                "w": {"dtype": "float32", "shape": [2, 3], "sha256": sha(w)},
            },
        },
    }
    assert table["adapters"] == table["bases"] == table["evidence"] == {}


def test_what_is_written_is_read_back(folder):
    _, made = manifest(folder)
    assert read_manifest(folder) == made


def test_equal_folders_have_equal_manifests_byte_by_byte(folder, tmp_path):
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    # In another order, at other times, and once more over a manifest that is there.
    for source in sorted((p for p in folder.rglob("*") if p.is_file()), reverse=True):
        target = copy / source.relative_to(folder)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
        os.utime(target, (1, 1))
    first = manifest(folder)[0].read_bytes()
    assert manifest(copy)[0].read_bytes() == manifest(copy)[0].read_bytes() == first


@pytest.mark.parametrize("name", ['a"\\b', "new\nline", "e\u0301", "é", "\u202egpj", " ", "ключ"])
def test_odd_names_are_kept_exactly(folder, name):
    (folder / name).write_bytes(b"odd")
    save_tensors(folder / "odd.safetensors", {name: np.zeros(1)})
    path, _ = manifest(folder)
    assert path.read_bytes().isascii()
    read = read_manifest(folder)
    assert read.files[name].sha256 == sha(b"odd")
    assert read.files["odd.safetensors"].tensors.keys() == {name}


def test_a_name_that_is_no_unicode_is_refused(folder):
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.bin")).write_bytes(b"x")
    with pytest.raises(HostileFileError, match="no Unicode"):
        manifest(folder)
    assert not (folder / MANIFEST).exists()


def test_a_hub_cache_of_links_has_the_manifest_of_its_files(folder, tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    blobs.mkdir()
    for source in (p for p in folder.rglob("*") if p.is_file()):
        blob = blobs / sha(source.read_bytes())
        blob.write_bytes(source.read_bytes())
        link = snapshot / source.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert survey(snapshot).manifest == survey(folder).manifest


def test_links_to_folders_and_to_nowhere_and_pipes_are_refused(folder, tmp_path):
    (tmp_path / "other").mkdir()
    kinds = {
        "link to a folder": lambda path: path.symlink_to(tmp_path / "other"),
        "link that leads nowhere": lambda path: path.symlink_to(tmp_path / "gone"),
        "neither a file nor a folder": os.mkfifo,
    }
    for words, make in kinds.items():
        make(folder / "odd")
        with pytest.raises(HostileFileError, match=words) as caught:
            survey(folder)
        assert caught.value.path == str(folder / "odd")
        (folder / "odd").unlink()


def test_what_git_and_downloads_leave_at_the_top_does_not_count(folder):
    before = survey(folder).manifest
    for name in (".git/HEAD", ".gitattributes", ".cache/huggingface/x.lock", ".github/ci.yml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("transport")
    assert survey(folder).manifest == before
    for name in ("deep/.gitattributes", ".cache/other"):
        (folder / name).write_text("content")
    assert {".cache/other", "deep/.gitattributes"} <= survey(folder).files.keys()


@pytest.mark.parametrize("size", [1, 3, 7, 64, 1 << 20])
def test_chunks_of_any_size_give_the_same_digests(folder, monkeypatch, size, rng):
    lengths = [0, 1, 2, 7, 8, 30]
    tensors = {f"t{n}": rng.integers(0, 255, n, np.uint8) for n in lengths}
    save_tensors(folder / "many.safetensors", tensors)
    monkeypatch.setattr(hashing, "_CHUNK_BYTES", size)
    found = survey(folder).files["many.safetensors"]
    assert found.sha256 == sha((folder / "many.safetensors").read_bytes())
    assert {name: each.sha256 for name, each in found.tensors.items()} == {
        name: sha(array.tobytes()) for name, array in tensors.items()
    }


def test_each_difference_is_named(folder):
    before = survey(folder).files
    (folder / "deep" / "notes.txt").rename(folder / "deep" / "moved.txt")
    (folder / "new").write_bytes(b"new")
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(3, 2), "none": np.empty((0, 4), "int32")}
    save_tensors(folder / "w.safetensors", tensors | {"more": np.ones(1)})
    found = {each.entry: each.what for each in differences(before, survey(folder).files)}
    assert found == {
        "deep/notes.txt": "missing: now 'deep/moved.txt'",
        "deep/moved.txt": "added: it was 'deep/notes.txt'",
        "new": "added",
        "w.safetensors:w": "shape [3, 2], stated was [2, 3]",
        "w.safetensors:none": "dtype int32, stated was int64",
        "w.safetensors:more": "added",
    }


def test_a_header_alone_counts(folder):
    before = survey(folder).files
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.empty((0, 4), "int64")}
    save_tensors(folder / "w.safetensors", tensors, {"title": "another"})
    (found,) = differences(before, survey(folder).files)
    assert (found.entry, found.what) == ("w.safetensors", "its header differs")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a manifest"),
        (b"\xff\xfe", "not a manifest"),
        (b"[]", "expected dict"),
        (b"{}", "expected format"),
        (b'{"format": "loricate-manifest", "version": true}', "expected int"),
        (b'{"format": "loricate-manifest", "version": 1, "files": {"a": 3}}', "expected dict"),
        (b'{"format": "loricate-manifest", "format": 1}', "a key occurs twice"),
        (b"[" * 100_000, "not a manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(folder, content, words):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(HostileFileError, match=words):
        read_manifest(folder)


def test_a_newer_version_says_what_to_do(folder):
    path, _ = manifest(folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2}))
    with pytest.raises(UnsupportedError, match="upgrade loricate"):
        read_manifest(folder)


def test_a_malformed_file_of_weights_gets_no_manifest(folder):
    (folder / "w.safetensors").write_bytes(b"")
    with pytest.raises(HostileFileError, match="header"):
        manifest(folder)
    assert not (folder / MANIFEST).exists()


def test_what_cannot_be_written_or_read_is_named_and_nothing_is_lost(folder, monkeypatch):
    path, _ = manifest(folder)
    before = path.read_bytes()
    (folder / "more").write_text("more")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", _refuse)
        with pytest.raises(PrerequisiteError, match="Read-only"):
            manifest(folder)
    assert path.read_bytes() == before
    assert sorted(each.name for each in folder.glob(".*")) == []
    monkeypatch.setattr(os, "scandir", _refuse)
    with pytest.raises(PrerequisiteError, match="check the path and its permissions"):
        survey(folder)


def _refuse(*_):
    raise OSError(30, "Read-only file system")


def test_a_stale_manifest_is_not_signed_over(folder):
    from loricate.integrity.manifest import require_fresh

    _, stated = manifest(folder)
    (folder / "deep" / "notes.txt").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="write it anew") as caught:
        require_fresh(stated, survey(folder).manifest)
    assert caught.value.entries == ("deep/notes.txt",)


def test_a_folder_deeper_than_the_stack_is_measured(tmp_path) -> None:
    folder = tmp_path
    for _ in range(sys.getrecursionlimit() + 200):
        folder /= "d"
        folder.mkdir()
    (folder / "a.txt").write_text("a")
    (name,) = hashing.measure(tmp_path)
    assert name == (folder / "a.txt").relative_to(tmp_path).as_posix()
    # What cleans up after tests does recur.
    (folder / "a.txt").unlink()
    while folder != tmp_path:
        folder.rmdir()
        folder = folder.parent
