"""Figures written in one step."""

from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure

from loricate.basics.files import write_atomically

__all__ = ["save_figure"]

_SVG = ".svg"


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure: the whole of it, or nothing, in place of one that is there.

    Args:
        figure: What was drawn.
        path: Destination; its ending says whether PNG, SVG or PDF.
    """
    drawn = BytesIO()
    # Without a date the same numbers give the same file.
    date = {"Date": None} if path.suffix == _SVG else None
    figure.savefig(drawn, format=path.suffix.removeprefix("."), dpi=150, metadata=date)
    write_atomically(path, drawn.getvalue())
