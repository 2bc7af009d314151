"""Figures are written whole or not at all."""

import errno
import os

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from loricate.report._saving import save_figure


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_a_figure_is_of_the_kind_that_its_ending_says(tmp_path, ending, magic) -> None:
    path = tmp_path / f"figure.{ending}"
    save_figure(Figure(figsize=(1, 1)), path)
    assert path.read_bytes().startswith(magic)


def test_equal_figures_are_equal_files(tmp_path) -> None:
    with mpl.rc_context({"svg.hashsalt": "a"}):
        for name in ("a.svg", "b.svg"):
            save_figure(Figure(figsize=(1, 1)), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_full_disk_leaves_the_old_figure(tmp_path, monkeypatch) -> None:
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_figure(Figure(figsize=(1, 1)), path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"
