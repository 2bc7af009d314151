"""Many numbers with their intervals, one panel a metric, as a file of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loricate.records.schema import Aggregate
from loricate.report._saving import save_figure

__all__ = ["Panel", "save_forest_plot"]

_COLORS = matplotlib.colormaps["tab10"]
_MARKERS = "osD^vP*X<>"
_ROW_INCHES = 0.26


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The numbers of one metric.

    Args:
        title: The metric.
        rows: For each condition, the aggregates by the name of their model.
    """

    title: str
    rows: Mapping[str, Mapping[str, Aggregate]]


def save_forest_plot(panels: Sequence[Panel], models: Sequence[str], path: Path) -> None:
    """Draw the value and interval of every model under every condition.

    Args:
        panels: At least one metric.
        models: Names of the models, in the order of the legend.
        path: Destination; its ending says whether PNG, SVG or PDF.
    """
    style: dict[Any, Any] = {"svg.hashsalt": "loricate", "font.size": 9.0}
    heights = [len(panel.rows) * max(1.0, 0.3 * len(models)) + 1.6 for panel in panels]
    with matplotlib.rc_context(style):
        size = (9.0, 0.9 + _ROW_INCHES * sum(heights))
        figure = Figure(figsize=size, layout="constrained")
        cells = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, panel in zip(cells, panels, strict=True):
            _draw(axes, panel, models)
        handles, labels = cells[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        save_figure(figure, path)


def _draw(axes: Axes, panel: Panel, models: Sequence[str]) -> None:
    for index, model in enumerate(models):
        shift = 0.8 * ((index + 0.5) / len(models) - 0.5)
        marks = [
            (place + shift, row[model])
            for place, row in enumerate(panel.rows.values())
            if model in row
        ]
        axes.errorbar(
            [a.value for _, a in marks],
            [place for place, _ in marks],
            xerr=[
                [_arm(a.value - a.low) for _, a in marks],
                [_arm(a.high - a.value) for _, a in marks],
            ],
            fmt=_MARKERS[index % len(_MARKERS)],
            color=_COLORS(index % 10),
            markersize=4.5,
            elinewidth=1.1,
            label=model,
        )
    axes.set_yticks(range(len(panel.rows)), list(panel.rows))
    axes.set_ylim(len(panel.rows) - 0.5, -0.5)
    axes.set_title(panel.title, loc="left", fontsize=9.0)
    axes.grid(visible=True, axis="x", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _arm(length: float) -> float:
    return max(length, 0.0) if math.isfinite(length) else math.nan
