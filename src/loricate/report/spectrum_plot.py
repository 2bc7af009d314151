"""One figure of many singular spectra, as a file of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loricate.report._saving import save_figure

__all__ = ["Curve", "save_spectrum_plot"]

# Below this a value is not worth ink, and zeros would stretch a logarithmic axis without end.
_FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Singular spectrum of one weight, and what rules keep of it.

    Args:
        values: Singular values in descending order.
        ranks: Rank kept, by rule.
    """

    values: Sequence[float]
    ranks: Mapping[str, int]


def save_spectrum_plot(curves: Sequence[Curve], path: Path, *, title: str) -> None:
    """Draw spectra, from the first weight to the last, and the share of rank each rule keeps.

    Args:
        curves: At least one weight.
        path: Destination; its ending says whether PNG, SVG or PDF.
        title: Line above the figure.
    """
    style: dict[Any, Any] = {"svg.hashsalt": "loricate", "font.size": 9.0}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(10.0, 4.0), layout="constrained")
        spectra, shares = figure.subplots(1, 2)
        figure.suptitle(title, parse_math=False)
        _draw_spectra(spectra, curves)
        _draw_shares(shares, curves)
        save_figure(figure, path)


def _draw_spectra(axes: Axes, curves: Sequence[Curve]) -> None:
    colors = matplotlib.colormaps["viridis"]
    for index, curve in enumerate(curves):
        top = max(curve.values, default=0.0) or 1.0
        places = [k / max(1, len(curve.values) - 1) for k in range(len(curve.values))]
        heights = [max(value / top, _FLOOR) for value in curve.values]
        color = colors(0.9 * index / max(1, len(curves) - 1))
        axes.plot(places, heights, color=color, linewidth=0.8, alpha=0.8)
    axes.set_yscale("log")
    axes.set_ylim(_FLOOR, 1.3)
    axes.set_xlabel("index / full rank")
    axes.set_ylabel("singular value / largest")
    axes.set_title("spectra, dark to light in model order")


def _draw_shares(axes: Axes, curves: Sequence[Curve]) -> None:
    for rule in curves[0].ranks:
        shares = [curve.ranks[rule] / max(1, len(curve.values)) for curve in curves]
        axes.plot(shares, marker="o", markersize=2.5, linewidth=0.9, label=rule)
    axes.set_ylim(0.0, 1.05)
    axes.set_xlabel("weight, in model order")
    axes.set_ylabel("rank kept / full rank")
    axes.set_title("what each rule keeps")
    if curves[0].ranks:
        axes.legend(frameon=False)
