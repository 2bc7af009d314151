"""What a file is taken for by its name or its first bytes."""

import os

import pytest

from loricate.integrity._suffixes import CODE, PICKLES, WEIGHTS, beginning_of, code_in
from loricate.integrity.hashing import unlisted
from loricate.integrity.verification import unlisted_claims


def test_pickles_are_weights_and_no_file_is_weights_and_code() -> None:
    assert set(PICKLES) < set(WEIGHTS)
    assert set(WEIGHTS).isdisjoint(CODE)
    assert all(each == each.lower() and each.startswith(".") for each in (*WEIGHTS, *CODE))


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".joblib", ".dill", ".pickle", ".keras", ".PT"])
def test_weights_of_every_kind_are_told_where_nobody_looks(suffix, tmp_path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / f"model{suffix}").write_bytes(b"x")
    assert unlisted(tmp_path) == {f".git/model{suffix}": "weights"}


@pytest.mark.parametrize("name", ["run.py", "run.CMD", "x.pyo", "x.so"])
def test_code_of_every_kind_is_told_where_nobody_looks(name, tmp_path) -> None:
    (tmp_path / ".github").mkdir()
    (tmp_path / ".github" / name).write_bytes(b"x")
    assert unlisted(tmp_path) == {f".github/{name}": "code"}


@pytest.mark.parametrize(
    ("name", "content", "kind", "code"),
    [
        ("a.txt", b"#!/bin/sh", "a script", "a script"),
        ("a.txt", b"<!DOCTYPE html>", *["a page or script that a browser runs"] * 2),
        ("a.PY", b"x = 1", None, "Python code"),
        ("a.txt", b'{"a": 1}', "JSON", None),
        ("a.txt", b"words", None, None),
    ],
)
def test_first_bytes_tell_what_a_name_does_not(name, content, kind, code, tmp_path) -> None:
    (tmp_path / name).write_bytes(content)
    assert (beginning_of(tmp_path / name), code_in(tmp_path / name)) == (kind, code)


def test_folders_that_cannot_be_entered_are_told(tmp_path, monkeypatch):
    (tmp_path / ".git/deep").mkdir(parents=True)
    (tmp_path / ".git/around").symlink_to(tmp_path)
    (tmp_path / ".git/itself").symlink_to("itself")
    (tmp_path / ".git/deep/model.pt").touch()
    assert unlisted(tmp_path) == {".git/around": "folder", ".git/deep/model.pt": "weights"}
    entries = os.listdir

    def refusing(path):
        if path.name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return entries(path)

    monkeypatch.setattr(os, "listdir", refusing)
    assert unlisted(tmp_path) == {".git/around": "folder", ".git/deep": "folder"}
    claims = list(unlisted_claims(tmp_path))
    assert [(each.path, each.passed) for each in claims] == [
        (".git/around", None),
        (".git/deep", None),
    ]


def test_folders_deeper_than_the_stack_are_looked_through(tmp_path):
    levels = 1200
    top = tmp_path / ".github"
    bottom = top.joinpath(*"a" * levels)
    try:
        folder = top
        folder.mkdir()
        for _ in range(levels):
            folder /= "a"
            folder.mkdir()
        (bottom / "run.py").touch()
        assert unlisted(tmp_path) == {f".github/{'a/' * levels}run.py": "code"}
    finally:
        # What removes temporary folders has a stack as well.
        (bottom / "run.py").unlink(missing_ok=True)
        for folder in (bottom, *bottom.parents[:levels]):
            folder.rmdir()
