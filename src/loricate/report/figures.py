"""Which figures a record has the evidence for."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from loricate.records.names import (
    CONTROLS,
    NO_ATTACK,
    PARTS,
    RANDOM_NOISE,
    STRONGEST,
    SUBJECTS,
    Metrics,
    is_replicate,
)
from loricate.records.schema import Aggregate, RunRecord
from loricate.report import charts, words
from loricate.report.charts import CostPanel, Series
from loricate.report.svg import SvgSheet

__all__ = ["Chart", "clean_table", "draw_figures", "subject_order"]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure with the words around it.

    Args:
        svg: The figure.
        title: What tells it from its neighbors.
        legend: The subjects in it.
        noise: Whether it has a line for equal-norm noise.
    """

    svg: Markup
    title: str = ""
    legend: tuple[str, ...] = ()
    noise: bool = False


def draw_figures(record: RunRecord, sheet: SvgSheet) -> dict[str, list[Chart]]:
    """The charts of every section of the report; a section without evidence has none."""
    # Of several trainings their defense is shown, with an interval over all of them.
    shown = tuple(a for a in record.aggregates if not is_replicate(a.subject))
    record = record.model_copy(update={"aggregates": shown})
    return {
        "attack": list(_worst_cases(record, sheet)),
        "attacks": list(_single_attacks(record, sheet)),
        "cost": list(_costs(record, sheet)),
        "training": list(_training(record, sheet)),
        "ranks": list(_ranks(record, sheet)),
        "spectra": list(_spectra(record, sheet)),
    }


def _worst_cases(record: RunRecord, sheet: SvgSheet) -> Iterator[Chart]:
    for metric in (Metrics.ATTACK_SUCCESS, Metrics.LATENT_DRIFT):
        points = [a for a in record.aggregates if a.metric == metric]
        strongest = [a for a in points if a.attack == STRONGEST]
        noise = [a for a in points if (a.attack, a.subject) == (RANDOM_NOISE, "base")]
        for place in dict.fromkeys((a.surface, a.norm) for a in strongest):
            yield _epsilon_chart(
                _series(record, _at(place, strongest)),
                sheet,
                title=f"{words.plain(place[0])}, worst case, {place[1]}",
                noise=sorted(_at(place, noise), key=lambda a: a.epsilon),
            )


def _single_attacks(record: RunRecord, sheet: SvgSheet) -> Iterator[Chart]:
    """Attack success for each attack on its own."""
    attacks: dict[tuple[str, ...], list[Aggregate]] = {}
    for a in record.aggregates:
        if a.metric == Metrics.ATTACK_SUCCESS and a.attack not in (STRONGEST, NO_ATTACK):
            key = (a.surface, a.attack, a.objective, a.norm, a.variant)
            attacks.setdefault(key, []).append(a)
    for names, points in attacks.items():
        title = ", ".join(words.plain(part) for part in names if part not in ("", NO_ATTACK))
        yield _epsilon_chart(_series(record, points), sheet, title=title)


def _at(place: tuple[str, str], points: Sequence[Aggregate]) -> list[Aggregate]:
    return [a for a in points if (a.surface, a.norm) == place]


def _series(record: RunRecord, points: Sequence[Aggregate]) -> list[Series]:
    slots = charts.slots_of([a.subject for a in record.aggregates])
    lines: dict[str, list[Aggregate]] = {}
    for a in sorted(points, key=lambda a: (subject_order(a.subject), a.epsilon)):
        lines.setdefault(a.subject, []).append(a)
    return [Series(subject=s, slot=slots[s], points=tuple(line)) for s, line in lines.items()]


def _epsilon_chart(
    series: Sequence[Series], sheet: SvgSheet, *, title: str, noise: Sequence[Aggregate] = ()
) -> Chart:
    metric = series[0].points[0].metric
    rate = metric == Metrics.ATTACK_SUCCESS
    figure = charts.against_epsilon(series, noise, metric=metric, rate=rate)
    return Chart(
        svg=sheet.add(figure, f"{words.metric_label(metric)} against epsilon, {title}"),
        title=title,
        legend=tuple(line.subject for line in series),
        noise=bool(noise),
    )


def _costs(record: RunRecord, sheet: SvgSheet) -> Iterator[Chart]:
    if panels := _cost_panels(record):
        svg = sheet.add(charts.clean_cost(panels), "Clean quality lost by each subject")
        subjects = dict.fromkeys(subject for panel in panels for subject in panel.bars)
        yield Chart(svg=svg, legend=tuple(subjects))


def _cost_panels(record: RunRecord) -> list[CostPanel]:
    """What each subject loses against the base on clean inputs."""
    table = clean_table(record)
    criteria = {criterion.name: criterion for criterion in record.verdict.criteria}
    base = table.get("base", {})
    panels = []
    for title, metric, name in (
        ("PSNR lost, dB", Metrics.PSNR, "reconstruction_psnr_drop"),
        ("Clean latent drift", Metrics.LATENT_DRIFT, "clean_latent_drift"),
        ("Prompt alignment lost", Metrics.ALIGNMENT, "prompt_alignment_drop"),
    ):
        drift = metric == Metrics.LATENT_DRIFT
        bars = {
            subject: row[metric].value if drift else base[metric].value - row[metric].value
            for subject, row in table.items()
            if subject in ("hardened", *PARTS, *CONTROLS)
            and metric in row
            and (drift or metric in base)
        }
        if bars:
            panels.append(CostPanel(title=title, bars=bars, criterion=criteria.get(name)))
    return panels


def _training(record: RunRecord, sheet: SvgSheet) -> Iterator[Chart]:
    curves = record.training.curves if record.training else ()
    if any(set(row) - {"step"} for row in curves):
        yield Chart(svg=sheet.add(charts.training_curves(curves), "Training curves"))


def _ranks(record: RunRecord, sheet: SvgSheet) -> Iterator[Chart]:
    if record.training and record.training.ranks:
        figure = charts.rank_pattern(record.training.ranks)
        yield Chart(svg=sheet.add(figure, "Rank of every adapted module"))


def _spectra(record: RunRecord, sheet: SvgSheet) -> Iterator[Chart]:
    if record.spectra:
        yield Chart(svg=sheet.add(charts.spectra(record.spectra), "Spectrum of every weight"))


def subject_order(subject: str) -> tuple[int, str]:
    """Sorting key that puts the base first, then the controls, and single trainings last."""
    place = SUBJECTS.index(subject) if subject in SUBJECTS else len(SUBJECTS)
    return place + is_replicate(subject), subject


def clean_table(record: RunRecord) -> dict[str, dict[str, Aggregate]]:
    """For each subject, its clean metrics."""
    table: dict[str, dict[str, Aggregate]] = {}
    clean = [a for a in record.aggregates if a.attack == NO_ATTACK]
    for a in sorted(clean, key=lambda a: subject_order(a.subject)):
        table.setdefault(a.subject, {})[a.metric] = a
    return table
