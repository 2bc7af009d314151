"""The figures of a report, one function each, from values of a record.

A figure is drawn in the signal colors of ``svg``; legends are part of the page, so that a subject
looks the same everywhere.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loricate.records.names import SUBJECTS, epsilon_text, is_replicate
from loricate.records.schema import Aggregate, Criterion, RankRow, SpectrumRow
from loricate.report.svg import INK, MUTED, RULE, SLOTS, STYLE, slot_color
from loricate.report.words import metric_label, number, plain

__all__ = [
    "MARKERS",
    "CostPanel",
    "Series",
    "against_epsilon",
    "clean_cost",
    "rank_pattern",
    "slots_of",
    "spectra",
    "training_curves",
]

_WIDE: Final = 7.4
_HALF: Final = 3.6
MARKERS: Final = {
    "base": ("o", "●"),
    "hardened": ("s", "■"),
    "part_adapter": ("p", "⬟"),
    "part_preprocessing": ("h", "⬢"),
    "control_plain": ("^", "▲"),
    "control_noise": ("D", "◆"),
    "control_truncation": ("v", "▼"),
    "control_full": ("P", "✚"),
    "other_1": ("<", "◀"),
    "other_2": (">", "▶"),
    "other_3": ("X", "✖"),
}
"""For each slot, the marker in figures and the glyph in legends."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line against epsilon.

    Args:
        subject: The model.
        slot: Its color and marker.
        points: The aggregates, in order of epsilon.
    """

    subject: str
    slot: str
    points: tuple[Aggregate, ...]


@dataclass(frozen=True, kw_only=True)
class CostPanel:
    """What hardening costs on clean inputs, by one metric.

    Args:
        title: What is lost, with its unit.
        bars: For each slot, how much.
        criterion: The line of the verdict that limits it.
    """

    title: str
    bars: Mapping[str, float]
    criterion: Criterion | None = None


def slots_of(subjects: Sequence[str]) -> dict[str, str]:
    """A color slot for every subject, the same in every figure of a report."""
    others = [slot for slot in SLOTS if slot.startswith("other")]
    strange = [subject for subject in dict.fromkeys(subjects) if subject not in SUBJECTS]
    strange.sort(key=is_replicate)
    known = {subject: subject for subject in SUBJECTS if subject in subjects}
    return known | {s: others[index % len(others)] for index, s in enumerate(strange)}


def against_epsilon(
    series: Sequence[Series], noise: Sequence[Aggregate], *, metric: str, rate: bool
) -> Figure:
    """A metric against epsilon, with the interval of every point.

    Args:
        series: One line per subject.
        noise: The base under random noise of equal norm: a dotted reference.
        metric: What the lines show.
        rate: Whether it is a rate, whose axis ends at 0 and 100 %.

    Returns:
        The figure, without a legend.
    """
    epsilons = sorted({point.epsilon for line in series for point in line.points})
    with _figure(_HALF, 2.5) as figure:
        axes = figure.subplots()
        for index, line in enumerate(series):
            # Side by side, so that intervals do not hide one another.
            shift = 0.04 * (index - (len(series) - 1) / 2)
            _line(axes, line, [epsilons.index(p.epsilon) + shift for p in line.points])
        _reference(axes, [(epsilons.index(p.epsilon), p) for p in noise if p.epsilon in epsilons])
        norm = series[0].points[0].norm
        # Radii of other balls are no fractions of a gray level.
        sizes = [epsilon_text(e) if norm == "linf" else f"{e:g}" for e in epsilons]
        axes.set_xticks(range(len(epsilons)), sizes)
        axes.set_xlim(-0.3, max(len(epsilons) - 0.7, 0.3))
        axes.set_xlabel("epsilon")
        axes.set_title(metric_label(metric), pad=8)
        if rate:
            axes.set_ylim(-0.02, 1.03)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        else:
            axes.set_ylim(bottom=0)
        return figure


def clean_cost(panels: Sequence[CostPanel]) -> Figure:
    """What each subject loses on clean inputs, beside the limit of the verdict."""
    with _figure(_WIDE, 1.75) as figure:
        for axes, panel in zip(_row(figure, len(panels)), panels, strict=True):
            values = [v if math.isfinite(v) else 0.0 for v in panel.bars.values()]
            colors = [slot_color(slot) for slot in panel.bars]
            axes.bar(range(len(values)), values, width=0.62, color=colors)
            axes.axhline(0, color=MUTED, linewidth=0.8)
            _limit(axes, panel.criterion)
            axes.set_xticks([])
            axes.set_xlim(-0.6, max(len(values) - 0.4, 0.6))
            axes.set_title(panel.title, pad=8)
            axes.spines["bottom"].set_visible(False)
        return figure


def training_curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Every logged quantity against the training step, one panel each."""
    keys = list(dict.fromkeys(key for row in rows for key in row if key != "step"))
    columns = min(len(keys), 4)
    with _figure(_WIDE, 1.7 * math.ceil(len(keys) / columns)) as figure:
        for axes, key in zip(_grid(figure, len(keys), columns), keys, strict=True):
            logged = [row for row in rows if key in row]
            steps = [row.get("step", index) for index, row in enumerate(logged)]
            values = [row[key] for row in logged]
            axes.plot(steps, values, color=slot_color("hardened"), linewidth=1.1)
            axes.set_title(plain(key), pad=6)
            axes.set_xlabel("step")
            finite = [value for value in values if math.isfinite(value)]
            span = max([0, *finite]) - min([0, *finite])
            axes.set_ylim(min([0, *finite]), max([0, *finite]) + 0.08 * (span or 1.0))
        return figure


def rank_pattern(rows: Sequence[RankRow]) -> Figure:
    """Rank of every adapted module: a bar for the end, a tick for the start."""
    with _figure(_WIDE, 0.6 + 0.17 * len(rows)) as figure:
        axes = figure.subplots()
        places = range(len(rows))
        ends, starts = [r.rank_end for r in rows], [r.rank_start for r in rows]
        axes.barh(places, ends, height=0.62, color=slot_color("hardened"))
        axes.scatter(starts, places, marker="|", s=60, linewidths=1.6, color=INK, zorder=3)
        for place, row in zip(places, rows, strict=True):
            axes.annotate(
                f"{row.rank_start} → {row.rank_end}",
                (max(row.rank_end, row.rank_start), place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color=MUTED,
            )
        axes.set_yticks(places, [row.module for row in rows], fontsize=7)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * max(1, *ends, *starts))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("rank")
        axes.spines["left"].set_visible(False)
        return figure


def spectra(rows: Sequence[SpectrumRow]) -> Figure:
    """Singular values of every weight over the largest one, on a shared logarithmic scale."""
    columns = min(4, len(rows))
    prefix = _common_prefix([row.module for row in rows])
    with _figure(_WIDE, 1.15 * math.ceil(len(rows) / columns) + 0.2) as figure:
        for axes, row in zip(_grid(figure, len(rows), columns), rows, strict=True):
            top = max(row.singular_values, default=0.0) or 1.0
            # A zero has no place on a logarithmic axis; the floor of the panel stands for it.
            values = [max(value / top, 1e-4) for value in row.singular_values]
            axes.fill_between(range(len(values)), values, 1e-4, color=RULE, linewidth=0)
            axes.plot(values, color=INK, linewidth=1.0)
            axes.axvline(row.effective_rank, color=slot_color("hardened"), linewidth=1.0)
            axes.set_yscale("log")
            axes.set_ylim(1e-3, 1.3)
            axes.minorticks_off()
            axes.set_yticks([1e-3, 1e-2, 1e-1, 1], ["0.001", "0.01", "0.1", "1"])
            axes.set_title(_tail(row.module.removeprefix(prefix)), fontsize=6.5, pad=3)
            axes.tick_params(labelsize=6)
            axes.label_outer()
        return figure


def _line(axes: Axes, line: Series, places: Sequence[float]) -> None:
    color = slot_color(line.slot)
    strong = line.slot in ("base", "hardened")
    low = [_arm(p.value - p.low) for p in line.points]
    high = [_arm(p.high - p.value) for p in line.points]
    axes.errorbar(
        places,
        [p.value for p in line.points],
        yerr=(low, high),
        color=color,
        marker=MARKERS[line.slot][0],
        markersize=4.5 if strong else 3.5,
        linewidth=2.0 if strong else 1.1,
        elinewidth=1.1,
        zorder=4 if strong else 3,
    )


def _reference(axes: Axes, points: Sequence[tuple[int, Aggregate]]) -> None:
    if not points:
        return
    places, values = [place for place, _ in points], [point.value for _, point in points]
    axes.plot(places, values, color=INK, linewidth=1.2, linestyle=":")
    axes.annotate(
        "random noise",
        (places[-1], values[-1]),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=7,
    )


def _arm(length: float) -> float:
    """Length of one arm of an interval; an endless one is not drawn, the table prints it."""
    return max(length, 0.0) if math.isfinite(length) else math.nan


def _limit(axes: Axes, criterion: Criterion | None) -> None:
    if criterion is None or criterion.threshold is None:
        return
    axes.axhline(criterion.threshold, color=INK, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.annotate(
        f"limit {number(criterion.threshold)}",
        (1, criterion.threshold),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=7,
    )


def _row(figure: Figure, n: int) -> list[Axes]:
    return list(figure.subplots(1, n, squeeze=False).flat)


def _grid(figure: Figure, n: int, columns: int) -> list[Axes]:
    cells = list(figure.subplots(math.ceil(n / columns), columns, squeeze=False).flat)
    for spare in cells[n:]:
        spare.set_axis_off()
    return cells[:n]


def _common_prefix(modules: Sequence[str]) -> str:
    """The leading path components that every module shares, with the closing dot."""
    shared = takewhile(
        lambda parts: len(set(parts)) == 1,
        zip(*(module.split(".")[:-1] for module in modules), strict=False),
    )
    return "".join(f"{parts[0]}." for parts in shared)


def _tail(module: str, length: int = 36) -> str:
    return module if len(module) <= length else f"…{module[-length + 1 :]}"


@contextmanager
def _figure(width_inches: float, height_inches: float) -> Iterator[Figure]:
    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=(width_inches, height_inches), layout="constrained")
