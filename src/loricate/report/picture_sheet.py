"""Rows of pictures with their captions, as one file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from loricate.report._saving import save_figure

__all__ = ["Tile", "save_picture_sheet"]

_TILE_INCHES: Final = 1.9
_CAPTION_INCHES: Final = 0.42


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture of a sheet.

    Args:
        caption: Text above it.
        pixels: Values in [0, 1], (height, width, 3).
    """

    caption: str
    pixels: NDArray[np.floating[Any]]


def save_picture_sheet(rows: Sequence[Sequence[Tile]], path: Path, *, title: str = "") -> None:
    """Draw pictures in a grid, every pixel as a square.

    Args:
        rows: At least one row of at least one tile.
        path: Destination; its ending says whether PNG, SVG or PDF.
        title: Line above the grid.
    """
    columns = max(map(len, rows))
    size = (
        columns * _TILE_INCHES,
        len(rows) * (_TILE_INCHES + _CAPTION_INCHES) + 0.4 * bool(title),
    )
    with matplotlib.rc_context({"font.size": 8.0}):
        figure = Figure(figsize=size, layout="constrained")
        cells = figure.subplots(len(rows), columns, squeeze=False)
        for axes in cells.flat:
            axes.set_axis_off()
        for row, tiles in zip(cells, rows, strict=True):
            for axes, tile in zip(row, tiles, strict=False):
                axes.imshow(np.clip(tile.pixels, 0, 1), interpolation="nearest")
                axes.set_title(tile.caption, fontsize=7.5, parse_math=False)
        if title:
            figure.suptitle(title, fontsize=9.0, parse_math=False)
        save_figure(figure, path)
